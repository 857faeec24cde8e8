/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/dest-check.h"

#include "common/json.h"
#include "engine/image/allowed.h"
#include "engine/image/convert.h"

#include <gio/gio.h>
#include <unistd.h>

/* A folder may be on storage that does not answer, so a thread looks. It may outlive the
 * configuration. */
typedef struct {
    char **folders;
    JsonObject *args;
    DrvPeer *peer;
    guint64 call;
} Check;

static void
check_free(gpointer data)
{
    Check *check = data;
    g_strfreev(check->folders);
    json_object_unref(check->args);
    g_free(check);
}

static gboolean
can_be_made(const Check *check, GError **error)
{
    g_autofree char *folder = NULL, *name = NULL;
    JsonObject *args = check->args;
    if (!drv_convert_check(NULL, drv_json_string(args, "format", ""),
                           drv_json_string(args, "options", NULL),
                           drv_json_flag(args, "compress", FALSE), error))
        return FALSE;
    int fd = drv_allowed_folder(check->folders, drv_json_string(args, "path", ""), &folder, &name,
                                error);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void
look(GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
    GError *error = NULL;
    if (can_be_made(data, &error))
        g_task_return_boolean(task, TRUE);
    else
        g_task_return_error(task, error);
}

static void
looked(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(GError) error = NULL;
    const Check *check = g_task_get_task_data(G_TASK(result));
    g_task_propagate_boolean(G_TASK(result), &error);
    if (error != NULL)
        drv_peer_refuse(check->peer, check->call, error);
    else
        drv_peer_answer(check->peer, check->call, json_object_new());
    drv_peer_unref(check->peer);
}

void
drv_copy_check(char *const *folders, DrvPeer *peer, guint64 call, JsonObject *args)
{
    Check *check = g_new(Check, 1);
    *check = (Check){g_strdupv((char **)folders), json_object_ref(args), drv_peer_ref(peer), call};
    g_autoptr(GTask) task = g_task_new(NULL, NULL, looked, NULL);
    g_task_set_task_data(task, check, check_free);
    g_task_run_in_thread(task, look);
}
