/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/migrate-off.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/cli/common.h"
#include "engine/cli/follow.h"
#include "engine/cli/options.h"
#include "engine/cli/units.h"

#include <stdio.h>
#include <string.h>

/*
 *   all copies are begun -> each is past its preparation -> each has arrived -> each has its name
 *                 |                     |                         |
 *                 '---------------------'-------------------------'--> one failed, or an interrupt:
 *                                                                 the others are cancelled
 *
 * What can be known beforehand (an image in use, no such folder) is found in the preparation of
 * each, before anything is waited for. The copies are a group to the daemon, which has them named
 * when all have arrived, and calls them off when one fails, whether or not this command is there.
 * What can still fail then is a renaming: it is said which have arrived.
 */
/* Of the group's id, which is unlike any other one's: the beginning of a UUID. */
#define GROUP_LEN 23

typedef struct {
    char *image, *dest;
    char *id;        /* of its job; NULL: it was not begun */
    JsonObject *job; /* as it was last heard of */
} Disk;

typedef struct {
    DrvClient *client;
    DrvFollow *follow;
    const DrvOffParams *params;
    GPtrArray *disks;
    char *group;
    GError *error; /* why it is not known how it ends; NULL: it is */
    gint64 began_us;
} Off;

static void
free_disk(gpointer data)
{
    Disk *disk = data;
    g_clear_pointer(&disk->job, json_object_unref);
    g_free(disk->image);
    g_free(disk->dest);
    g_free(disk->id);
    g_free(disk);
}

/* --- what is asked --- */

static Disk *
parse_disk(const DrvOffParams *params, const char *text)
{
    Disk *disk = g_new0(Disk, 1);
    const char *cut = strstr(text, "=/");
    g_autofree char *image = cut != NULL ? g_strndup(text, (gsize)(cut - text)) : g_strdup(text);
    disk->image = g_canonicalize_filename(image, NULL);
    if (cut != NULL) {
        disk->dest = g_strdup(cut + 1);
    } else if (params->dest_dir != NULL) {
        g_autofree char *name = g_path_get_basename(disk->image);
        disk->dest = g_build_filename(params->dest_dir, name, NULL);
    } else {
        disk->dest = g_strdup(disk->image);
    }
    return disk;
}

static gboolean
check(GPtrArray *disks, const DrvOffParams *params, GError **error)
{
    if (params->dest_dir != NULL && !g_path_is_absolute(params->dest_dir)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--dest-dir '%s' must be an absolute path on the other host", params->dest_dir);
        return FALSE;
    }
    if (disks->len == 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--disk is missing: give the image of each of the VM's disks");
        return FALSE;
    }
    for (guint i = 0; i < disks->len; i++) {
        const Disk *disk = disks->pdata[i];
        for (guint k = 0; k < i; k++) {
            if (!g_str_equal(disk->dest, ((const Disk *)disks->pdata[k])->dest))
                continue;
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "two images would become '%s' over there: give one another path, as in "
                        "--disk IMAGE=PATH",
                        disk->dest);
            return FALSE;
        }
    }
    return TRUE;
}

static JsonObject *
make_spec(const Off *self, const Disk *disk, GError **error)
{
    static const DrvOption to = {"to", "to", DRV_OPTION_TEXT, .required = TRUE},
                           format = {"format", "format", DRV_OPTION_TEXT},
                           lanes = {"lanes", "lanes", DRV_OPTION_COUNT, .min = 1, .max = 16},
                           bandwidth = {"bandwidth",
                                        "bandwidth",
                                        DRV_OPTION_BYTES,
                                        .min = 65536,
                                        .max = G_GUINT64_CONSTANT(1) << 40,
                                        .zero = "unlimited"},
                           drop = {"drop-timeout", "drop_timeout_s", DRV_OPTION_SECONDS, .min = 1,
                                   .max = 86400};
    const DrvOffParams *params = self->params;
    g_autoptr(JsonObject) spec = json_object_new();
    if (self->disks->len > 1) {
        json_object_set_string_member(spec, "group", self->group);
        json_object_set_int_member(spec, "of", self->disks->len);
    }
    json_object_set_string_member(spec, "image", disk->image);
    json_object_set_string_member(spec, "dest", disk->dest);
    if (!drv_option_take(&to, params->to, spec, error) ||
        !drv_option_take(&format, params->format, spec, error) ||
        !drv_option_take(&lanes, params->lanes, spec, error) ||
        !drv_option_take(&bandwidth, params->bandwidth, spec, error) ||
        !drv_option_take(&drop, params->drop_timeout, spec, error))
        return NULL;
    return g_steal_pointer(&spec);
}

/* --- its course --- */

static gboolean
is(const Disk *disk, const char *state)
{
    return disk->job != NULL && g_str_equal(drv_json_string(disk->job, "state", ""), state);
}

static gboolean
has_ended(const Disk *disk)
{
    return disk->id == NULL || drv_json_flag(disk->job, "final", FALSE);
}

/* FALSE: it is of no use to go on with the others. */
static gboolean
follow(Off *self, Disk *disk, DrvFollowTo to)
{
    g_autoptr(JsonObject) last = NULL;
    g_autoptr(GError) why = NULL;
    JsonObject *job = drv_follow_run(self->follow, disk->id, to, &last, &why);
    g_clear_pointer(&disk->job, json_object_unref);
    disk->job = job != NULL ? job : g_steal_pointer(&last);
    if (why != NULL && self->error == NULL)
        self->error = g_steal_pointer(&why);
    return job != NULL && !is(disk, "failed") && !is(disk, "cancelled") &&
           !drv_follow_interrupted(self->follow);
}

static gboolean
begin_all(Off *self, GError **error)
{
    for (guint i = 0; i < self->disks->len; i++) {
        Disk *disk = self->disks->pdata[i];
        g_autoptr(JsonObject) spec = make_spec(self, disk, error);
        disk->id = spec != NULL ? drv_follow_submit(self->follow, "/v1/copies", spec, error) : NULL;
        if (disk->id == NULL)
            return FALSE;
    }
    return TRUE;
}

static gboolean
follow_all(Off *self)
{
    static const DrvFollowTo course[] = {DRV_FOLLOW_TO_SERVE, DRV_FOLLOW_TO_HELD,
                                         DRV_FOLLOW_TO_END};
    for (guint pass = 0; pass < G_N_ELEMENTS(course); pass++)
        for (guint i = 0; i < self->disks->len; i++) {
            Disk *disk = self->disks->pdata[i];
            if (has_ended(disk))
                continue;
            if (course[pass] == DRV_FOLLOW_TO_HELD && self->disks->len > 1)
                fprintf(stderr, "%u of %u: %s\n", i + 1, self->disks->len, disk->image);
            if (!follow(self, disk, course[pass]))
                return FALSE;
        }
    return TRUE;
}

/* And waits for what becomes of them. Nobody is there who would do so where the daemon is not. */
static void
cancel_others(Off *self)
{
    for (guint i = 0; i < self->disks->len; i++) {
        Disk *disk = self->disks->pdata[i];
        if (has_ended(disk))
            continue;
        g_autofree char *path = drv_client_job_path(disk->id, "/cancel");
        g_autoptr(JsonObject) reply = drv_client_call(self->client, "POST", path, NULL, NULL, NULL);
    }
    for (guint i = 0; i < self->disks->len && self->error == NULL; i++) {
        Disk *disk = self->disks->pdata[i];
        if (!has_ended(disk))
            follow(self, disk, DRV_FOLLOW_TO_END);
    }
}

/* --- the report --- */

/* The one to blame: the first that failed, or else did not arrive; NULL: all did. */
static const Disk *
find_culprit(Off *self)
{
    const Disk *found = NULL;
    for (guint i = 0; i < self->disks->len; i++) {
        const Disk *disk = self->disks->pdata[i];
        if (is(disk, "failed"))
            return disk;
        if (found == NULL && !is(disk, "done"))
            found = disk;
    }
    return found;
}

static int
exit_status(Off *self, const Disk *culprit)
{
    if (culprit == NULL)
        return DRV_EXIT_DONE;
    if (is(culprit, "failed"))
        return DRV_EXIT_FAILED;
    return is(culprit, "cancelled") ? DRV_EXIT_CANCELLED : DRV_EXIT_IN_DOUBT;
}

/* "; TITLE: PATH, PATH" of those in that state; "" when there is none. */
static char *
list_state(Off *self, const Disk *but, const char *state, const char *title)
{
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < self->disks->len; i++) {
        const Disk *disk = self->disks->pdata[i];
        if (disk != but && is(disk, state))
            g_string_append_printf(text, "%s%s", text->len > 0 ? ", " : title, disk->dest);
    }
    return g_string_free(text, FALSE);
}

static char *
say_failure(Off *self, const Disk *culprit)
{
    g_autofree char *arrived = list_state(self, culprit, "done", "; arrived complete: ");
    g_autofree char *cancelled = list_state(self, culprit, "cancelled", "; cancelled, too: ");
    JsonObject *error = drv_json_object(culprit->job, "error");
    const char *why = self->error != NULL && !is(culprit, "failed")
                          ? self->error->message
                          : drv_json_string(error, "message", "it was cancelled");
    return g_strdup_printf("%s: %s%s%s; the images here are as they were", culprit->image, why,
                           arrived, cancelled);
}

static void
add_up(JsonObject *sum, JsonObject *disk, const char *member)
{
    json_object_set_int_member(sum, member,
                               drv_json_int(sum, member, 0) + drv_json_int(disk, member, 0));
}

static JsonObject *
tell_disk(const Disk *disk)
{
    JsonObject *o = json_object_new();
    JsonObject *result = drv_json_object(disk->job, "result");
    const char *why = drv_json_string(drv_json_object(disk->job, "error"), "message", NULL);
    const char *digest = drv_json_string(result, "digest", NULL);
    const char *state = drv_json_string(disk->job, "state", "unknown");
    json_object_set_string_member(o, "image", disk->image);
    json_object_set_string_member(o, "dest", disk->dest);
    json_object_set_string_member(o, "job", disk->id != NULL ? disk->id : "");
    json_object_set_string_member(o, "state", g_str_equal(state, "done") ? "completed" : state);
    if (why != NULL)
        json_object_set_string_member(o, "error", why);
    else
        json_object_set_null_member(o, "error");
    if (digest != NULL)
        json_object_set_string_member(o, "digest", digest);
    return o;
}

static JsonObject *
make_report(Off *self, int status, const char *failure)
{
    static const char *const members[] = {"bytes", "wire_bytes", "data_bytes", "zero_bytes",
                                          "same_bytes"};
    static const char *const states[] = {"completed", "failed", "failed", "in-doubt", "cancelled"};
    JsonObject *o = json_object_new(), *sum = json_object_new();
    JsonArray *disks = json_array_new();
    for (guint i = 0; i < self->disks->len; i++) {
        const Disk *disk = self->disks->pdata[i];
        JsonObject *one = drv_json_object(drv_json_object(disk->job, "result"), "disk");
        for (guint k = 0; k < G_N_ELEMENTS(members); k++)
            add_up(sum, one, members[k]);
        json_array_add_object_element(disks, tell_disk(disk));
    }
    if (self->params->name != NULL)
        json_object_set_string_member(o, "vm", self->params->name);
    else
        json_object_set_null_member(o, "vm");
    json_object_set_string_member(o, "state", states[status]);
    if (failure != NULL)
        json_object_set_string_member(o, "error", failure);
    else
        json_object_set_null_member(o, "error");
    json_object_set_int_member(o, "total_ms", (g_get_monotonic_time() - self->began_us) / 1000);
    json_object_set_object_member(o, "disk", sum);
    json_object_set_array_member(o, "disks", disks);
    return o;
}

static void
print_summary(Off *self, JsonObject *report)
{
    JsonObject *sum = drv_json_object(report, "disk");
    g_autofree char *name =
        drv_format_text(self->params->name != NULL ? self->params->name : "the VM", 60);
    g_autofree char *to = drv_format_text(self->params->to, 60);
    g_autofree char *took = drv_format_ms(drv_json_number(report, "total_ms", 0));
    g_autofree char *bytes = drv_format_bytes(drv_json_number(sum, "bytes", 0));
    g_autofree char *data = drv_format_bytes(drv_json_number(sum, "data_bytes", 0));
    g_autofree char *same = drv_format_bytes(drv_json_number(sum, "same_bytes", 0));
    g_autofree char *wire = drv_format_bytes(drv_json_number(sum, "wire_bytes", 0));
    printf("%s: %u disk%s now at %s, %s in %s\n"
           "  %s of data sent, %s were there already, %s on the wire\n",
           name, self->disks->len, self->disks->len == 1 ? " is" : "s are", to, bytes, took, data,
           same, wire);
    for (guint i = 0; i < self->disks->len; i++) {
        const Disk *disk = self->disks->pdata[i];
        g_autofree char *dest = drv_format_text(disk->dest, 200);
        g_autofree char *digest = drv_format_text(
            drv_json_string(drv_json_object(disk->job, "result"), "digest", "?"), 64);
        printf("  %s  sha256 %s\n", dest, digest);
    }
    puts("  the images here are as they were: remove them when the VM runs over there");
}

static int
tell(Off *self)
{
    const Disk *culprit = find_culprit(self);
    int status = exit_status(self, culprit);
    g_autofree char *failure = culprit != NULL ? say_failure(self, culprit) : NULL;
    g_autoptr(JsonObject) report = make_report(self, status, failure);
    if (failure != NULL) {
        g_autofree char *shown = drv_format_text(failure, 4000);
        fprintf(stderr, "drover: %s\n", shown);
    } else if (!self->params->json) {
        print_summary(self, report);
    }
    if (self->params->json)
        drv_cli_print_json(report);
    return status;
}

int
drv_cli_migrate_off(DrvCli *cli, const DrvOffParams *params, GError **error)
{
    DrvFollowOptions how = {.cancels = TRUE};
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(free_disk);
    for (guint i = 0; params->disks != NULL && params->disks[i] != NULL; i++)
        g_ptr_array_add(disks, parse_disk(params, params->disks[i]));
    if (!check(disks, params, error) ||
        !drv_option_reconnect(params->reconnect, &how.reconnect_s, error))
        return -1;
    g_autoptr(DrvClient) client = drv_cli_connect(cli, error);
    if (client == NULL)
        return -1;
    g_autoptr(DrvFollow) follower = drv_follow_new(client, &how);
    g_autofree char *group = g_uuid_string_random();
    group[GROUP_LEN] = '\0';
    Off self = {client, follower, params, disks, group, .began_us = g_get_monotonic_time()};
    gboolean begun = begin_all(&self, error);
    gboolean arrived = begun && follow_all(&self);
    if (!arrived)
        cancel_others(&self);
    int status = begun ? tell(&self) : -1;
    g_clear_error(&self.error);
    return status;
}
