/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/copies.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/cli/common.h"
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
 *
 * Those of a running guest take turns: one is in its preparation until those before it have
 * arrived, so that is not waited for.
 */
/* Of the group's id, which is unlike any other one's: the beginning of a UUID. */
#define GROUP_LEN 23

typedef struct {
    char *name, *image;
    JsonObject *spec;
    char *id;        /* of its job; NULL: it was not begun */
    JsonObject *job; /* as it was last heard of */
} Disk;

typedef struct {
    DrvClient *client;
    DrvFollow *follow;
    const DrvCopies *what;
    GPtrArray *disks; /* of 'what' */
    GError *error;    /* why it is not known how it ends; NULL: it is */
    gint64 began_us;
} Copies;

static void
free_disk(gpointer data)
{
    Disk *disk = data;
    g_clear_pointer(&disk->job, json_object_unref);
    json_object_unref(disk->spec);
    g_free(disk->name);
    g_free(disk->image);
    g_free(disk->id);
    g_free(disk);
}

static const char *
dest_of(const Disk *disk)
{
    return drv_json_string(disk->spec, "dest", "");
}

/* --- what is asked --- */

GPtrArray *
drv_copies_disks_new(void)
{
    return g_ptr_array_new_with_free_func(free_disk);
}

char *
drv_copies_split(const char *text, const char **path)
{
    const char *cut = strstr(text, "=/");
    *path = cut != NULL ? cut + 1 : NULL;
    return cut != NULL ? g_strndup(text, (gsize)(cut - text)) : g_strdup(text);
}

static JsonObject *
clone_spec(JsonObject *object)
{
    JsonObject *copy = json_object_new();
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;
    json_object_iter_init(&iter, object);
    while (json_object_iter_next(&iter, &name, &node))
        json_object_set_member(copy, name, json_node_copy(node));
    return copy;
}

JsonObject *
drv_copies_add(GPtrArray *disks, JsonObject *common, const char *name, const char *image)
{
    Disk *disk = g_new0(Disk, 1);
    disk->name = g_strdup(name);
    disk->image = g_strdup(image);
    disk->spec = clone_spec(common);
    g_ptr_array_add(disks, disk);
    return disk->spec;
}

gboolean
drv_copies_place(JsonObject *spec, const char *path, const char *image, const char *dest_dir,
                 GError **error)
{
    static const DrvOption dest = {"disk", "dest", DRV_OPTION_TEXT};
    g_autofree char *name = g_path_get_basename(image);
    g_autofree char *there = path != NULL       ? g_strdup(path)
                             : dest_dir != NULL ? g_build_filename(dest_dir, name, NULL)
                                                : g_strdup(image);
    return drv_option_take(&dest, there, spec, error);
}

gboolean
drv_copies_check(GPtrArray *disks, const char *dest_dir, GError **error)
{
    if (dest_dir != NULL && !g_path_is_absolute(dest_dir)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--dest-dir '%s' must be an absolute path on the other host", dest_dir);
        return FALSE;
    }
    for (guint i = 0; i < disks->len; i++) {
        const Disk *disk = disks->pdata[i];
        for (guint k = 0; k < i; k++) {
            if (!g_str_equal(dest_of(disk), dest_of(disks->pdata[k])))
                continue;
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "two images would become '%s' over there: give one another path, as in "
                        "--disk %s=PATH",
                        dest_of(disk), disk->name);
            return FALSE;
        }
    }
    return TRUE;
}

static void
make_group(GPtrArray *disks)
{
    g_autofree char *group = g_uuid_string_random();
    group[GROUP_LEN] = '\0';
    for (guint i = 0; i < disks->len && disks->len > 1; i++) {
        JsonObject *spec = ((const Disk *)disks->pdata[i])->spec;
        json_object_set_string_member(spec, "group", group);
        json_object_set_int_member(spec, "of", disks->len);
    }
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
follow(Copies *self, Disk *disk, DrvFollowTo to)
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
begin_all(Copies *self, GError **error)
{
    for (guint i = 0; i < self->disks->len; i++) {
        Disk *disk = self->disks->pdata[i];
        disk->id = drv_follow_submit(self->follow, "/v1/copies", disk->spec, error);
        if (disk->id == NULL)
            return FALSE;
    }
    return TRUE;
}

static gboolean
follow_all(Copies *self)
{
    static const DrvFollowTo course[] = {DRV_FOLLOW_TO_SERVE, DRV_FOLLOW_TO_HELD,
                                         DRV_FOLLOW_TO_END};
    for (guint pass = self->what->running ? 1 : 0; pass < G_N_ELEMENTS(course); pass++)
        for (guint i = 0; i < self->disks->len; i++) {
            Disk *disk = self->disks->pdata[i];
            if (has_ended(disk))
                continue;
            if (course[pass] == DRV_FOLLOW_TO_HELD && self->disks->len > 1)
                fprintf(stderr, "%u of %u: %s\n", i + 1, self->disks->len, disk->name);
            if (!follow(self, disk, course[pass]))
                return FALSE;
        }
    return TRUE;
}

/* And waits for what becomes of them. Nobody is there who would do so where the daemon is not. */
static void
cancel_others(Copies *self)
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
find_culprit(Copies *self)
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
exit_status(Copies *self, const Disk *culprit)
{
    if (culprit == NULL)
        return DRV_EXIT_DONE;
    if (is(culprit, "failed"))
        return DRV_EXIT_FAILED;
    return is(culprit, "cancelled") ? DRV_EXIT_CANCELLED : DRV_EXIT_IN_DOUBT;
}

/* "; TITLE: PATH, PATH" of those in that state; "" when there is none. */
static char *
list_state(Copies *self, const Disk *but, const char *state, const char *title)
{
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < self->disks->len; i++) {
        const Disk *disk = self->disks->pdata[i];
        if (disk != but && is(disk, state))
            g_string_append_printf(text, "%s%s", text->len > 0 ? ", " : title, dest_of(disk));
    }
    return g_string_free(text, FALSE);
}

static char *
say_failure(Copies *self, const Disk *culprit)
{
    g_autofree char *arrived = list_state(self, culprit, "done", "; arrived complete: ");
    g_autofree char *cancelled = list_state(self, culprit, "cancelled", "; cancelled, too: ");
    JsonObject *error = drv_json_object(culprit->job, "error");
    const char *why = self->error != NULL && !is(culprit, "failed")
                          ? self->error->message
                          : drv_json_string(error, "message", "it was cancelled");
    return g_strdup_printf("%s: %s%s%s%s", culprit->name, why, arrived, cancelled,
                           self->what->running ? "" : "; the images here are as they were");
}

static void
add_up(JsonObject *sum, JsonObject *disk, const char *member)
{
    json_object_set_int_member(sum, member,
                               drv_json_int(sum, member, 0) + drv_json_int(disk, member, 0));
}

static void
pass_on(JsonObject *to, JsonObject *from, const char *member)
{
    const char *text = drv_json_string(from, member, NULL);
    if (text != NULL)
        json_object_set_string_member(to, member, text);
}

static JsonObject *
tell_disk(const Copies *self, const Disk *disk)
{
    JsonObject *o = json_object_new();
    JsonObject *result = drv_json_object(disk->job, "result");
    const char *why = drv_json_string(drv_json_object(disk->job, "error"), "message", NULL);
    const char *state = drv_json_string(disk->job, "state", "unknown");
    if (self->what->running)
        json_object_set_string_member(o, "id", disk->name);
    json_object_set_string_member(o, "image", disk->image);
    json_object_set_string_member(o, "dest", dest_of(disk));
    json_object_set_string_member(o, "job", disk->id != NULL ? disk->id : "");
    json_object_set_string_member(o, "state", g_str_equal(state, "done") ? "completed" : state);
    if (why != NULL)
        json_object_set_string_member(o, "error", why);
    else
        json_object_set_null_member(o, "error");
    pass_on(o, result, "digest");
    pass_on(o, result, "bitmap");
    pass_on(o, result, "left");
    return o;
}

static JsonObject *
make_report(Copies *self, int status, const char *failure)
{
    static const char *const members[] = {"bytes",      "wire_bytes", "data_bytes",
                                          "zero_bytes", "same_bytes", "unread_bytes"};
    static const char *const states[] = {"completed", "failed", "failed", "in-doubt", "cancelled"};
    JsonObject *o = json_object_new(), *sum = json_object_new();
    JsonArray *disks = json_array_new();
    for (guint i = 0; i < self->disks->len; i++) {
        const Disk *disk = self->disks->pdata[i];
        JsonObject *one = drv_json_object(drv_json_object(disk->job, "result"), "disk");
        for (guint k = 0; k < G_N_ELEMENTS(members); k++)
            add_up(sum, one, members[k]);
        json_array_add_object_element(disks, tell_disk(self, disk));
    }
    if (self->what->vm != NULL)
        json_object_set_string_member(o, "vm", self->what->vm);
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
print_disk(const Disk *disk)
{
    JsonObject *result = drv_json_object(disk->job, "result");
    const char *left = drv_json_string(result, "left", NULL);
    g_autofree char *dest = drv_format_text(dest_of(disk), 200);
    g_autofree char *digest = drv_format_text(drv_json_string(result, "digest", "?"), 64);
    g_autofree char *note = left != NULL ? drv_format_text(left, 400) : NULL;
    printf("  %s  sha256 %s\n", dest, digest);
    if (note != NULL)
        printf("  note: %s\n", note);
}

static void
print_rest(Copies *self)
{
    const Disk *any = self->disks->pdata[0];
    const char *bitmap = drv_json_string(any->spec, "bitmap", NULL);
    g_autofree char *begun = bitmap != NULL ? drv_format_text(bitmap, 60) : NULL;
    if (!self->what->running)
        puts("  the images here are as they were: remove them when the VM runs over there");
    if (self->what->running && self->disks->len > 1)
        puts("  each is as it was at a moment of its own");
    if (begun != NULL)
        printf("  bitmap %s records what the VM changes from here on\n", begun);
}

static void
print_summary(Copies *self, JsonObject *report)
{
    JsonObject *sum = drv_json_object(report, "disk");
    g_autofree char *name = drv_format_text(self->what->vm != NULL ? self->what->vm : "the VM", 60);
    g_autofree char *to = drv_format_text(self->what->to, 60);
    g_autofree char *took = drv_format_ms(drv_json_number(report, "total_ms", 0));
    g_autofree char *bytes = drv_format_bytes(drv_json_number(sum, "bytes", 0));
    g_autofree char *data = drv_format_bytes(drv_json_number(sum, "data_bytes", 0));
    g_autofree char *same = drv_format_bytes(drv_json_number(sum, "same_bytes", 0));
    g_autofree char *wire = drv_format_bytes(drv_json_number(sum, "wire_bytes", 0));
    printf("%s: %u disk%s now at %s, %s in %s\n"
           "  %s of data sent, %s were there already, %s on the wire\n",
           name, self->disks->len, self->disks->len == 1 ? " is" : "s are", to, bytes, took, data,
           same, wire);
    for (guint i = 0; i < self->disks->len; i++)
        print_disk(self->disks->pdata[i]);
    print_rest(self);
}

static int
tell(Copies *self)
{
    const Disk *culprit = find_culprit(self);
    int status = exit_status(self, culprit);
    g_autofree char *failure = culprit != NULL ? say_failure(self, culprit) : NULL;
    g_autoptr(JsonObject) report = make_report(self, status, failure);
    if (failure != NULL) {
        g_autofree char *shown = drv_format_text(failure, 4000);
        fprintf(stderr, "drover: %s\n", shown);
    } else if (!self->what->json) {
        print_summary(self, report);
    }
    if (self->what->json)
        drv_cli_print_json(report);
    return status;
}

int
drv_copies_run(const DrvCopies *what, DrvClient *client, DrvFollow *follow, GError **error)
{
    Copies self = {client, follow, what, what->disks, .began_us = g_get_monotonic_time()};
    make_group(what->disks);
    gboolean begun = begin_all(&self, error);
    gboolean arrived = begun && follow_all(&self);
    if (!arrived)
        cancel_others(&self);
    int status = begun ? tell(&self) : -1;
    g_clear_error(&self.error);
    return status;
}
