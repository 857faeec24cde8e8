/* SPDX-License-Identifier: Apache-2.0 */
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>

#include "common/error.h"
#include "engine/cli/common.h"
#include "engine/cli/display.h"
#include "engine/cli/units.h"
#include "engine/image/convert.h"

#define HELP                                                                                       \
    "Makes the image OUT of the image IN, on this host and without a daemon. OUT appears when "    \
    "it\n"                                                                                         \
    "is complete, and then replaces what had that name; an interrupt leaves nothing of it. The\n"  \
    "digest that is told (SHA-256, over the disk and not the file) is the one 'drover copy' "      \
    "tells.\n"                                                                                     \
    "Exit status: 0 done, 1 failed, 2 wrong use, 4 interrupted."

#define TELL_MS 200

typedef struct {
    DrvConvertParams params;
    DrvCopyCount count;
    DrvDisplay *display;
    GMainLoop *loop;
    gint64 began_us;
    char *digest;
    GError *error;
} Convert;

static gboolean
tell(gpointer data)
{
    Convert *self = data;
    g_autoptr(JsonObject) job = json_object_new();
    JsonObject *progress = json_object_new();
    double total = (double)self->count.total;
    double done = (double)drv_copy_count_get(&self->count.done);
    double s = (double)(g_get_monotonic_time() - self->began_us) / G_USEC_PER_SEC;
    json_object_set_string_member(job, "state", "converting");
    json_object_set_double_member(progress, "percent", total > 0 ? 100 * done / total : 0);
    json_object_set_double_member(progress, "raw_rate", s > 0 ? done / s : 0);
    json_object_set_double_member(progress, "remaining", total - done);
    json_object_set_object_member(job, "progress", progress);
    drv_display_update(self->display, job);
    return G_SOURCE_CONTINUE;
}

static gboolean
on_signal(gpointer data)
{
    drv_copy_cancel(&((Convert *)data)->count);
    return G_SOURCE_CONTINUE;
}

static gboolean
ended(gpointer data)
{
    g_main_loop_quit(((Convert *)data)->loop);
    return G_SOURCE_REMOVE;
}

static gpointer
work(gpointer data)
{
    Convert *self = data;
    self->digest = drv_convert(&self->params, &self->count, &self->error);
    g_idle_add(ended, self);
    return NULL;
}

static void
run(Convert *self)
{
    self->display = drv_display_new();
    self->loop = g_main_loop_new(NULL, FALSE);
    self->began_us = g_get_monotonic_time();
    guint sources[] = {
        g_unix_signal_add(SIGINT, on_signal, self),
        g_unix_signal_add(SIGTERM, on_signal, self),
        g_timeout_add(TELL_MS, tell, self),
    };
    GThread *thread = g_thread_new("convert", work, self);
    g_main_loop_run(self->loop);
    g_thread_join(thread);
    for (guint i = 0; i < G_N_ELEMENTS(sources); i++)
        g_source_remove(sources[i]);
    drv_display_clear(self->display);
    drv_display_free(self->display);
    g_main_loop_unref(self->loop);
}

static void
print_json(const Convert *self, gint64 ms)
{
    g_autoptr(JsonObject) o = json_object_new();
    JsonObject *disk = json_object_new();
    gboolean cancelled = g_error_matches(self->error, DRV_ERROR, DRV_ERROR_CANCELLED);
    json_object_set_string_member(o, "state",
                                  self->error == NULL ? "completed"
                                  : cancelled         ? "cancelled"
                                                      : "failed");
    if (self->error != NULL)
        json_object_set_string_member(o, "error", self->error->message);
    else
        json_object_set_null_member(o, "error");
    json_object_set_int_member(o, "total_ms", ms);
    json_object_set_int_member(disk, "bytes", (gint64)self->count.total);
    json_object_set_int_member(disk, "data_bytes", (gint64)self->count.data);
    json_object_set_int_member(disk, "zero_bytes", (gint64)self->count.zero);
    json_object_set_object_member(o, "disk", disk);
    if (self->digest != NULL)
        json_object_set_string_member(o, "digest", self->digest);
    else
        json_object_set_null_member(o, "digest");
    drv_cli_print_json(o);
}

static void
print_summary(const Convert *self, gint64 ms)
{
    g_autofree char *total = drv_format_bytes((double)self->count.total);
    g_autofree char *data = drv_format_bytes((double)self->count.data);
    g_autofree char *took = drv_format_ms((double)ms);
    printf("%s: %s, %s of it data, in %s\n  digest sha256 %s\n", self->params.out, total, data,
           took, self->digest);
}

static int
finish(const Convert *self, gboolean json)
{
    gint64 ms = (g_get_monotonic_time() - self->began_us) / 1000;
    if (json)
        print_json(self, ms);
    else if (self->error == NULL)
        print_summary(self, ms);
    if (self->error == NULL)
        return DRV_EXIT_DONE;
    if (!g_error_matches(self->error, DRV_ERROR, DRV_ERROR_CANCELLED))
        return drv_cli_fail(self->error);
    fprintf(stderr, "drover: interrupted: nothing is left of %s\n", self->params.out);
    return DRV_EXIT_CANCELLED;
}

static char *
join_options(char **options)
{
    return options != NULL ? g_strjoinv(",", options) : NULL;
}

int
drv_cmd_convert(DrvCli *cli, int argc, char **argv)
{
    g_autofree char *format = NULL, *dest_format = NULL, *joined = NULL, *in = NULL, *out = NULL;
    g_auto(GStrv) options = NULL;
    gboolean compress = FALSE, json = FALSE;
    const GOptionEntry entries[] = {
        {"format", 0, 0, G_OPTION_ARG_STRING, &format, "IN's; as QEMU sees it where not given",
         "FORMAT"},
        {"dest-format", 0, 0, G_OPTION_ARG_STRING, &dest_format, "OUT's; IN's where not given",
         "FORMAT"},
        {"options", 'o', 0, G_OPTION_ARG_STRING_ARRAY, &options,
         "Of OUT's format, as for qemu-img create", "NAME=VALUE,..."},
        {"compress", 0, 0, G_OPTION_ARG_NONE, &compress, "Compress every cluster of a qcow2", NULL},
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "End with the result as JSON on stdout", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    if (!drv_cli_parse(cli, entries, "IN OUT", HELP, 2, 2, &argc, &argv, &error))
        return drv_cli_fail(error);
    joined = join_options(options);
    if (!drv_convert_check(format, dest_format, joined, compress && dest_format != NULL, &error))
        return drv_cli_fail(error);
    in = g_canonicalize_filename(argv[1], NULL);
    out = g_canonicalize_filename(argv[2], NULL);
    Convert self = {
        .params = {in, out, format, dest_format, joined, compress},
    };
    run(&self);
    int status = finish(&self, json);
    g_clear_error(&self.error);
    g_free(self.digest);
    return status;
}
