/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/view-private.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/copy/dest.h"
#include "engine/host/disks.h"
#include "engine/image/allowed.h"
#include "engine/image/probe.h"
#include "engine/job/qemu-identity.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

/*
 *       device                      device
 *         |                           |
 *         |                         filter  ("copy-before-write") -----> scratch file
 *         |                           |        ^
 *        disk        becomes         disk      '--- view ("snapshot-access") <- front <- ... we
 *
 * Before a block of the disk is overwritten, the filter has what was there put into the scratch
 * file; the view is what is there, or else what is on the disk. It shows the disk as it was when
 * the filter was put between it and its device.
 *
 * The guest must not notice. When the scratch file cannot be written, or takes too long, QEMU's own
 * backups would fail the guest's write; this filter gives up the view ("break-snapshot", since QEMU
 * 7.1): we cannot read it any more, and the guest has written.
 *
 * The scratch file has no name and is handed over open: QEMU needs no right to the folder, and
 * whoever dies, no file stays. A bitmap begins before the filter is there, so that what is written
 * in between counts as changed; were it the other way round, it could be missed.
 *
 * QEMU before 9.2 is read with care ("plain"): two requests for the state of blocks that overlap
 * could end it (before 9.1, in some branches longer), and in 7.2 a read that begins where the
 * filter has saved something and goes on where it has not gets the disk's new data for all of it,
 * and so does a question for holes. What is within one of the filter's clusters is right. Where a
 * disk is served from an iothread, 7.2 ends when a client leaves: that is refused. They are told
 * apart by an option that the filter has since 9.2.
 */
#define CLUSTER (64 << 10)
#define BUSY_RETRY_MS 1000
#define BUSY_MS 60000
#define SCRATCH_SLOW_S 20
/* With less than this on the file system a scratch file is full. */
#define SCRATCH_LEAST (1u << 20)

static void
release(gpointer data)
{
    DrvDiskView *self = data;
    g_free(self->socket);
    if (self->store != NULL)
        drv_store_close(self->store, NULL);
    g_free(self->node);
    g_free(self->empty);
    g_free(self->access);
    g_free(self->filter);
    g_free(self->scratch);
    g_free(self->format);
    g_free(self->left);
    g_clear_error(&self->broken);
    if (self->scratch_fd >= 0)
        close(self->scratch_fd);
}

void
view_release(DrvDiskView *view)
{
    g_rc_box_release_full(view, release);
}

DrvTicket *
view_ticket(DrvDiskView *view)
{
    return drv_steps_ticket(&view->steps, g_rc_box_acquire);
}

DrvDiskView *
view_redeem(gpointer ticket, DrvDiskView **keep)
{
    gpointer owner;
    gboolean good = drv_ticket_redeem(ticket, &owner);
    *keep = owner;
    return good ? owner : NULL;
}

JsonObject *
view_record(DrvDiskView *view)
{
    return drv_json_object(view->job->detail, "view");
}

void
view_give_up(DrvDiskView *view, GError *error)
{
    if (view->job != NULL && !view->undoing)
        view->ops->failed(view->job, error);
    else
        g_error_free(error);
}

/* --- QMP --- */

static GError *
ended(const GError *why)
{
    return g_error_new(DRV_ERROR, DRV_ERROR_QEMU,
                       "the guest's QEMU has ended or closed its QMP socket: %s", why->message);
}

static void
closed(QmpClient *client, const GError *why, gpointer data)
{
    DrvDiskView *self = data;
    g_autoptr(DrvDiskView) keep = g_rc_box_acquire(self);
    view_drop_qmp(self);
    view_give_up(self, ended(why));
}

void
view_use_qmp(DrvDiskView *view, QmpClient *client)
{
    view->qmp = client;
    g_signal_connect(client, "closed", G_CALLBACK(closed), view);
}

void
view_drop_qmp(DrvDiskView *view)
{
    if (view->qmp == NULL)
        return;
    g_autoptr(QmpClient) client = g_steal_pointer(&view->qmp);
    g_signal_handlers_disconnect_by_data(client, view);
    qmp_client_close(client);
}

static gboolean
connect_again(gpointer data)
{
    DrvDiskView *self = data;
    self->retry = 0;
    self->connect(self);
    return G_SOURCE_REMOVE;
}

gboolean
view_wait_busy(DrvDiskView *view, const GError *error, void (*connect)(gpointer owner))
{
    if (!g_error_matches(error, QMP_ERROR, QMP_ERROR_BUSY) ||
        g_get_monotonic_time() >= view->busy_until)
        return FALSE;
    if (view->connect != connect)
        g_message("job %s: somebody else has the QMP socket of the guest's QEMU, and is waited for",
                  view->job->rec->id);
    view->connect = connect;
    view->retry = g_timeout_add(BUSY_RETRY_MS, connect_again, view);
    return TRUE;
}

void
view_may_be_busy(DrvDiskView *view)
{
    view->busy_until = g_get_monotonic_time() + (gint64)BUSY_MS * 1000;
}

static void step_connect(gpointer owner);

static void
step_connected(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvDiskView) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, &error);
    DrvDiskView *self = view_redeem(ticket, &keep);
    if (self == NULL || view_wait_busy(self, error, step_connect))
        return;
    if (client == NULL) {
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
        return;
    }
    drv_qemu_remember(self->job->detail, client);
    view_use_qmp(self, g_steal_pointer(&client));
    drv_steps_next(&self->steps);
}

static void
step_connect(gpointer owner)
{
    DrvDiskView *self = owner;
    qmp_client_connect_async(self->spec->qmp, VIEW_CONNECT_MS, self->steps.cancellable,
                             step_connected, view_ticket(self));
}

static void
release_owner(gpointer owner)
{
    view_release(owner);
}

void
view_ask(DrvDiskView *view, const char *command, JsonNode *args, DrvAnswered answered)
{
    drv_steps_ask(&view->steps, view_ticket(view), release_owner, view->qmp, command, args,
                  VIEW_QMP_MS, answered);
}

/* What becomes of it does not matter. */
static void
forget(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, NULL);
}

/* --- which disk --- */

static gboolean
refuse(GError **error, const char *id, const char *why)
{
    g_autofree char *shown = g_strescape(id, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE, "disk '%.80s' %s", shown, why);
    return FALSE;
}

static gboolean
check_disk(const DrvDisk *disk, const DrvCopySpec *spec, GError **error)
{
    if (!disk->medium)
        return refuse(error, spec->disk, "has no medium: there is nothing to copy");
    if (disk->read_only)
        return refuse(error, spec->disk,
                      "is read-only, so nobody writes to it: copy its image, with 'drover copy "
                      "IMAGE'");
    if (*disk->qdev == '\0')
        return refuse(error, spec->disk,
                      "is used by no device of the guest: copy its image, with 'drover copy "
                      "IMAGE', when QEMU has closed it");
    if (spec->bitmap != NULL && !g_str_equal(disk->format, "qcow2"))
        return refuse(error, spec->disk,
                      "is no qcow2 image, and only those keep bitmaps: copy it without --bitmap");
    return TRUE;
}

/* One of that name would be somebody else's, and is not ours to take back. */
static gboolean
has_bitmap(JsonNode *blocks, const char *node, const char *bitmap)
{
    JsonArray *all = qmp_node_array(blocks);
    for (guint i = 0; all != NULL && i < json_array_get_length(all); i++) {
        JsonObject *inserted =
            qmp_get_object(qmp_node_object(json_array_get_element(all, i)), "inserted");
        JsonArray *bitmaps = qmp_get_array(inserted, "dirty-bitmaps");
        if (bitmaps == NULL || g_strcmp0(qmp_get_string(inserted, "node-name"), node) != 0)
            continue;
        for (guint k = 0; k < json_array_get_length(bitmaps); k++)
            if (g_strcmp0(
                    qmp_get_string(qmp_node_object(json_array_get_element(bitmaps, k)), "name"),
                    bitmap) == 0)
                return TRUE;
    }
    return FALSE;
}

/* All that an undo needs to know is in the journal before QEMU is told anything. */
static gboolean
put_down(DrvDiskView *self, const DrvDisk *disk, GError **error)
{
    JsonObject *view = json_object_new();
    json_object_set_string_member(view, "qdev", disk->qdev);
    json_object_set_string_member(view, "node", disk->node);
    json_object_set_boolean_member(view, "server", TRUE);
    json_object_set_boolean_member(view, "bitmap", self->spec->bitmap != NULL);
    json_object_set_object_member(self->job->detail, "view", view);
    return drv_job_save(self->job, error);
}

/* The one that is asked for, of 'disks'; NULL with an error: it cannot be copied. */
static const DrvDisk *
choose(GPtrArray *disks, JsonNode *blocks, const DrvCopySpec *spec, GError **error)
{
    const DrvDisk *disk = drv_disks_find(disks, spec->disk);
    if (disk == NULL) {
        g_autofree char *list = drv_disks_list(disks);
        g_autofree char *why = g_strdup_printf("is none of the guest's (%s): choose one of them",
                                               *list != '\0' ? list : "it has none");
        refuse(error, spec->disk, why);
        return NULL;
    }
    if (!check_disk(disk, spec, error))
        return NULL;
    if (spec->bitmap != NULL && has_bitmap(blocks, disk->node, spec->bitmap)) {
        g_autofree char *shown = g_strescape(spec->bitmap, NULL);
        g_autofree char *why = g_strdup_printf("has a bitmap '%.80s' already: choose another name "
                                               "for --bitmap, or remove that one with "
                                               "'block-dirty-bitmap-remove'",
                                               shown);
        refuse(error, spec->disk, why);
        return NULL;
    }
    return disk;
}

static gboolean
take_disk(DrvDiskView *self, JsonNode *blocks, GError **error)
{
    g_autoptr(GPtrArray) disks = drv_disks_parse(blocks, error);
    const DrvDisk *disk = disks != NULL ? choose(disks, blocks, self->spec, error) : NULL;
    if (disk == NULL)
        return FALSE;
    self->size = disk->size;
    g_free(self->format);
    self->format = g_strdup(drv_image_format_writable(disk->format, NULL) ? disk->format : "raw");
    return self->looking || put_down(self, disk, error);
}

static void
disks_known(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    if (reply != NULL)
        take_disk(self, reply, error);
    drv_steps_over(&self->steps, g_steal_pointer(error));
}

static void
step_look(gpointer owner)
{
    view_ask(owner, "query-block", NULL, disks_known);
}

/* --- the bitmap --- */

static void
bitmap_begun(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    if (reply == NULL)
        view_not_ours(self, "bitmap", *error);
    drv_steps_over(&self->steps, g_steal_pointer(error));
}

static void
step_bitmap(gpointer owner)
{
    DrvDiskView *self = owner;
    if (self->spec->bitmap == NULL)
        drv_steps_next(&self->steps);
    else
        view_ask(self, "block-dirty-bitmap-add",
                 qmp_args("node", "s", drv_json_string(view_record(self), "node", ""), "name", "s",
                          self->spec->bitmap, "persistent", "b", TRUE, NULL),
                 bitmap_begun);
}

/* --- the scratch file --- */

static const char *
scratch_dir(const DrvDiskView *self)
{
    return self->spec->scratch != NULL ? self->spec->scratch
                                       : drv_services_config(self->job->services)->state_dir;
}

static int
open_unnamed(int folder)
{
    int fd = openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
        return fd;
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d/.drover-scratch-XXXXXX", folder);
    fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* As large as the disk, and all of it a hole. */
static gboolean
make_scratch(DrvDiskView *self, GError **error)
{
    const char *dir = scratch_dir(self);
    char *const *folders =
        self->spec->scratch != NULL ? drv_copy_folders(self->job->services) : NULL;
    g_autofree char *real = drv_allowed_file(folders, dir, error);
    if (real == NULL)
        return FALSE;
    int folder = drv_allowed_open(real, O_RDONLY | O_DIRECTORY);
    self->scratch_fd = folder >= 0 ? open_unnamed(folder) : -1;
    gboolean good = self->scratch_fd >= 0 && ftruncate(self->scratch_fd, (off_t)self->size) == 0;
    if (!good)
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "%s takes no scratch file: %s: choose another folder with --scratch", dir,
                    g_strerror(errno));
    if (folder >= 0)
        close(folder);
    return good;
}

static void
scratch_added(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    /* QEMU has opened it, and does not need it under that name any more. */
    if (self->qmp != NULL)
        qmp_client_execute_async(self->qmp, "remove-fd",
                                 qmp_args("fdset-id", "x", self->fdset, NULL), VIEW_QMP_MS, NULL,
                                 forget, NULL);
    drv_steps_over(&self->steps, g_steal_pointer(error));
}

static void
scratch_handed_over(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    if (reply == NULL) {
        drv_steps_fail(&self->steps, g_steal_pointer(error));
    } else if (!qmp_get_int(qmp_node_object(reply), "fdset-id", &self->fdset) ||
               self->qmp == NULL) {
        drv_steps_fail(&self->steps,
                       g_error_new_literal(DRV_ERROR, DRV_ERROR_QEMU, "QEMU does not take a file"));
    } else {
        drv_job_test_point(self->job, "handing-over");
        g_autofree char *path = g_strdup_printf("/dev/fdset/%" G_GINT64_FORMAT, self->fdset);
        JsonNode *file =
            qmp_args("driver", "s", "file", "filename", "s", path, "locking", "s", "off", NULL);
        view_ask(self, "blockdev-add",
                 qmp_args("driver", "s", "raw", "node-name", "s", self->scratch, "file", "o", file,
                          NULL),
                 scratch_added);
    }
}

static void
step_scratch(gpointer owner)
{
    DrvDiskView *self = owner;
    GError *error = NULL;
    if (!make_scratch(self, &error))
        drv_steps_fail(&self->steps, error);
    else
        drv_steps_ask_with_fd(&self->steps, view_ticket(self), release_owner, self->qmp, "add-fd",
                              qmp_args("opaque", "s", self->scratch, NULL), self->scratch_fd,
                              VIEW_QMP_MS, scratch_handed_over);
}

/* --- the view --- */

static void
add_filter(DrvDiskView *self, DrvAnswered answered)
{
    JsonNode *args =
        qmp_args("driver", "s", "copy-before-write", "node-name", "s", self->filter, "file", "s",
                 drv_json_string(view_record(self), "node", ""), "target", "s", self->scratch,
                 "on-cbw-error", "s", "break-snapshot", "cbw-timeout", "i", SCRATCH_SLOW_S, NULL);
    if (!self->plain)
        json_object_set_int_member(json_node_get_object(args), "min-cluster-size", CLUSTER);
    view_ask(self, "blockdev-add", args, answered);
}

static void
filter_added(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    if (g_error_matches(*error, QMP_ERROR, QMP_ERROR_COMMAND) && self->qmp != NULL) {
        self->plain = TRUE;
        add_filter(self, NULL);
    } else {
        drv_steps_over(&self->steps, g_steal_pointer(error));
    }
}

static void
step_filter(gpointer owner)
{
    add_filter(owner, filter_added);
}

static void
iothreads_known(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    JsonArray *threads = qmp_node_array(reply);
    if (reply != NULL && (threads == NULL || json_array_get_length(threads) > 0))
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_STATE,
                            "this QEMU has iothreads, and one before 9.2 may end when such "
                            "a disk is read by somebody else: copy its image when the VM "
                            "is off, or run the VM with a newer QEMU");
    drv_steps_over(&self->steps, g_steal_pointer(error));
}

static void
step_iothreads(gpointer owner)
{
    DrvDiskView *self = owner;
    if (self->plain)
        view_ask(self, "query-iothreads", NULL, iothreads_known);
    else
        drv_steps_next(&self->steps);
}

/* The moment that the view shows. */
static void
step_insert(gpointer owner)
{
    DrvDiskView *self = owner;
    view_ask(self, "qom-set",
             qmp_args("path", "s", drv_json_string(view_record(self), "qdev", ""), "property", "s",
                      "drive", "value", "s", self->filter, NULL),
             NULL);
}

static void
step_access(gpointer owner)
{
    DrvDiskView *self = owner;
    view_ask(self, "blockdev-add",
             qmp_args("driver", "s", "snapshot-access", "node-name", "s", self->access, "file", "s",
                      self->filter, NULL),
             NULL);
}

static const DrvStep open_steps[] = {
    {"asking the guest's QEMU", step_connect},
    {"asking for its disks", step_look},
    {"beginning the bitmap", step_bitmap},
    {"starting an NBD server", view_step_server},
    {"adding a scratch file", step_scratch},
    {"adding a copy-before-write filter (QEMU 7.1 and later have it)", step_filter},
    {"looking for iothreads", step_iothreads},
    {"adding an empty disk", view_step_empty},
    {"adding what is served", view_step_front},
    {"serving it", view_step_export},
    {"connecting to it", view_step_connect_readers},
    {"putting the filter above the disk", step_insert},
    {"adding a view of the disk", step_access},
    {"serving the view", view_step_switch},
    {"removing the empty disk", view_step_no_empty},
    {NULL, NULL},
};

static void
made(gpointer owner, GError *error)
{
    DrvDiskView *self = owner;
    if (error != NULL) {
        view_give_up(self, error);
    } else if (self->job != NULL) {
        view_start_watch(self);
        self->ops->opened(self->job);
    }
}

/* --- no more than a look --- */

static const DrvStep look_steps[] = {
    {"asking the guest's QEMU", step_connect},
    {"asking for its disks", step_look},
    {NULL, NULL},
};

static void
looked(gpointer owner, GError *error)
{
    DrvDiskView *self = owner;
    view_drop_qmp(self);
    self->looking = FALSE;
    self->looked = TRUE;
    if (error != NULL)
        view_give_up(self, error);
    else if (self->job != NULL)
        self->ops->looked(self->job);
}

void
drv_disk_view_look(DrvDiskView *view)
{
    g_autoptr(DrvDiskView) keep = g_rc_box_acquire(view);
    view->looking = TRUE;
    drv_steps_start(&view->steps, look_steps, view, looked);
}

void
drv_disk_view_open(DrvDiskView *view, guint users)
{
    g_autoptr(DrvDiskView) keep = g_rc_box_acquire(view);
    view->users = users;
    if (view->looked) /* somebody may have taken the socket since */
        view_may_be_busy(view);
    drv_steps_start(&view->steps, open_steps, view, made);
}

/* --- what it is --- */

const char *
drv_disk_view_format(const DrvDiskView *view)
{
    return view->format;
}

DrvStore *
drv_disk_view_store(const DrvDiskView *view)
{
    return view->store;
}

/* QEMU lives. */
static GError *
explain(const DrvDiskView *self)
{
    struct statvfs fs;
    const char *dir = scratch_dir(self);
    if (fstatvfs(self->scratch_fd, &fs) == 0 && (guint64)fs.f_bavail * fs.f_frsize < SCRATCH_LEAST)
        return g_error_new(DRV_ERROR, DRV_ERROR_QEMU,
                           "what the guest overwrites on its disk '%s' while it is copied is kept "
                           "in a scratch file in %s, and there is no room left: make room, or "
                           "choose another folder with --scratch",
                           self->spec->disk, dir);
    return g_error_new(DRV_ERROR, DRV_ERROR_QEMU,
                       "%s: if the disk itself is good, QEMU could not save what the guest "
                       "overwrites in a scratch file in %s, or not within %d s: choose another "
                       "folder with --scratch",
                       self->broken->message, dir, SCRATCH_SLOW_S);
}

static void
whether_it_lives(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvDiskView) self = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    if (reply == NULL)
        view_give_up(self, ended(error));
    else if (self->job == NULL)
        return;
    else
        view_give_up(self, explain(self));
}

void
drv_disk_view_broken(DrvDiskView *view, GError *error)
{
    g_clear_error(&view->broken);
    view->broken = error;
    if (view->qmp == NULL || view->scratch_fd < 0)
        view_give_up(view, g_error_copy(error));
    else
        qmp_client_execute_async(view->qmp, "query-status", NULL, VIEW_QMP_MS, NULL,
                                 whether_it_lives, g_rc_box_acquire(view));
}

/* --- life --- */

static char *
node_name(const DrvJob *job, const char *what)
{
    return g_strdup_printf("drover-%s-%s", job->rec->id, what);
}

DrvDiskView *
drv_disk_view_new(DrvJob *job, const DrvCopySpec *spec, const DrvDiskViewOps *ops)
{
    DrvDiskView *self = g_rc_box_new0(DrvDiskView);
    self->job = job;
    self->spec = spec;
    self->ops = ops;
    self->scratch_fd = -1;
    self->socket = drv_services_socket_path(job->services, job->rec->id, "nbd");
    self->node = node_name(job, "view");
    self->empty = node_name(job, "empty");
    self->access = node_name(job, "access");
    self->filter = node_name(job, "filter");
    self->scratch = node_name(job, "scratch");
    return self;
}

void
drv_disk_view_free(DrvDiskView *view)
{
    if (view == NULL)
        return;
    view->job = NULL;
    g_clear_handle_id(&view->retry, g_source_remove);
    view_stop_watch(view);
    drv_steps_drop(&view->steps);
    view_drop_qmp(view);
    view_release(view);
}
