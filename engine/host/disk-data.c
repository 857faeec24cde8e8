/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/disk-data.h"

#include "common/error.h"
#include "common/json.h"
#include "qmp/json.h"

#define ERROR_MAX 400

static void
end_process(gpointer data)
{
    GSubprocess *process = data;
    g_subprocess_force_exit(process);
    g_object_unref(process);
}

/* qemu-img compare: 0 same, 1 not the same, 2 and more an error. */
static void
compared(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(GTask) task = data;
    g_autoptr(GError) error = NULL;
    g_autofree char *said = NULL;
    GSubprocess *process = G_SUBPROCESS(source);
    gboolean ended = g_subprocess_communicate_utf8_finish(process, result, NULL, &said, &error) &&
                     g_subprocess_get_if_exited(process);
    int status = ended ? g_subprocess_get_exit_status(process) : -1;
    if (status == 0 || status == 1)
        g_task_return_int(task, status);
    else
        g_task_return_new_error(task, DRV_ERROR, DRV_ERROR_QEMU, "qemu-img cannot tell: %.*s",
                                ERROR_MAX,
                                error != NULL  ? error->message
                                : said != NULL ? g_strstrip(said)
                                               : "it was killed");
}

static char *
image(JsonNode *options)
{
    g_autofree char *text = drv_json_to_text(options);
    json_node_unref(options);
    return g_strconcat("json:", text, NULL);
}

void
drv_disk_data_async(const char *socket, const char *export, guint64 size, GCancellable *cancellable,
                    GAsyncReadyCallback callback, gpointer user_data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GTask) task = g_task_new(NULL, cancellable, callback, user_data);
    g_autofree char *disk =
        image(qmp_args("driver", "s", "nbd", "export", "s", export, "server", "o",
                       qmp_args("type", "s", "unix", "path", "s", socket, NULL), NULL));
    g_autofree char *zeroes = image(qmp_args("driver", "s", "null-co", "read-zeroes", "b", TRUE,
                                             "size", "x", (gint64)size, NULL));
    GSubprocess *process =
        g_subprocess_new(G_SUBPROCESS_FLAGS_STDOUT_SILENCE | G_SUBPROCESS_FLAGS_STDERR_PIPE, &error,
                         "qemu-img", "compare", disk, zeroes, NULL);
    if (process == NULL) {
        g_task_return_new_error(task, DRV_ERROR, DRV_ERROR_QEMU,
                                "qemu-img is needed to tell, install qemu-utils: %s",
                                error->message);
        return;
    }
    g_task_set_task_data(task, process, end_process);
    g_subprocess_communicate_utf8_async(process, NULL, cancellable, compared,
                                        g_steal_pointer(&task));
}

int
drv_disk_data_finish(GAsyncResult *result, GError **error)
{
    return (int)g_task_propagate_int(G_TASK(result), error);
}
