/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/dirty-rate.h"

#include "common/error.h"
#include "qmp/json.h"

#include <string.h>

#define TIMEOUT_MS 20000
#define POLL_MS 50
/* Beyond the time that is measured: QEMU has to start and to stop its log. */
#define GRACE_US (15 * G_USEC_PER_SEC)
/* A page in 128. QEMU looks at 512 for each GiB by itself, which is few for a small guest. */
#define SAMPLE_PAGES 2048
#define MIB 1048576

static const char *const mode_names[DRV_DIRTY_MODES] = {
    [DRV_DIRTY_RING] = "dirty-ring",
    [DRV_DIRTY_BITMAP] = "dirty-bitmap",
    [DRV_DIRTY_SAMPLING] = "page-sampling",
};

const char *
drv_dirty_mode_name(DrvDirtyMode mode)
{
    g_return_val_if_fail((guint)mode < DRV_DIRTY_MODES, "unknown");
    return mode_names[mode];
}

typedef struct {
    GTask *task;
    QmpClient *client; /* the task's source */
    DrvDirtyMode mode; /* being tried, then used */
    gboolean seconds;  /* this QEMU knows no other unit */
    guint ms;
    gint64 deadline;
    GSource *poll;
} Measuring;

static void
done(Measuring *m, GError *error)
{
    g_autoptr(GTask) task = m->task;
    if (m->poll != NULL) {
        g_source_destroy(m->poll);
        g_source_unref(m->poll);
    }
    if (error != NULL)
        g_task_return_error(task, error);
    g_free(m);
}

/* --- waiting for it --- */

static void ask_again_later(Measuring *m);

static void
answered(GObject *source, GAsyncResult *result, gpointer data)
{
    Measuring *m = data;
    GError *error = NULL;
    gint64 rate = 0;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    JsonObject *object = qmp_node_object(reply);
    const char *status = qmp_get_string(object, "status");
    if (reply != NULL && g_strcmp0(status, "measured") == 0 &&
        qmp_get_int(object, "dirty-rate", &rate)) {
        DrvDirtyRate *found = g_new(DrvDirtyRate, 1);
        *found = (DrvDirtyRate){m->mode, m->ms,
                                (guint64)CLAMP(rate, 0, G_MAXINT32) * MIB * m->ms / 1000};
        g_task_return_pointer(m->task, found, g_free);
    } else if (reply != NULL && g_strcmp0(status, "measuring") == 0 &&
               g_get_monotonic_time() < m->deadline) {
        ask_again_later(m);
        return;
    } else if (reply != NULL) {
        error = g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                            "QEMU did not end its measurement of the dirty rate: it says '%s'",
                            status != NULL ? status : "nothing");
    }
    done(m, error);
}

static gboolean
ask(gpointer data)
{
    Measuring *m = data;
    g_clear_pointer(&m->poll, g_source_unref);
    qmp_client_execute_async(m->client, "query-dirty-rate", NULL, TIMEOUT_MS,
                             g_task_get_cancellable(m->task), answered, m);
    return G_SOURCE_REMOVE;
}

static void
ask_again_later(Measuring *m)
{
    m->poll = g_timeout_source_new(POLL_MS);
    g_source_set_callback(m->poll, ask, m, NULL);
    g_source_attach(m->poll, g_task_get_context(m->task));
}

/* --- beginning --- */

static void try_mode(Measuring *m);

static void
begun(GObject *source, GAsyncResult *result, gpointer data)
{
    Measuring *m = data;
    GError *error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    gboolean refused = g_error_matches(error, QMP_ERROR, QMP_ERROR_COMMAND);
    if (reply != NULL) {
        m->deadline = g_get_monotonic_time() + (gint64)m->ms * 1000 + GRACE_US;
        ask_again_later(m);
    } else if (refused && !m->seconds && strstr(error->message, "calc-time-unit") != NULL) {
        g_clear_error(&error);
        m->seconds = TRUE;
        try_mode(m);
    } else if (refused && m->mode != DRV_DIRTY_SAMPLING) {
        g_clear_error(&error);
        m->mode++;
        try_mode(m);
    } else {
        done(m, error);
    }
}

static void
try_mode(Measuring *m)
{
    /* Written out: the unit is left out where it is not known, and the pages but for a sample. */
    gboolean sampling = m->mode == DRV_DIRTY_SAMPLING;
    if (m->seconds)
        m->ms = (m->ms + 999) / 1000 * 1000;
    JsonNode *args = qmp_args("mode", "s", mode_names[m->mode], "calc-time", "x",
                              (gint64)(m->seconds ? m->ms / 1000 : m->ms), "calc-time-unit", "s",
                              m->seconds ? NULL : "millisecond", NULL);
    if (sampling)
        json_object_set_int_member(json_node_get_object(args), "sample-pages", SAMPLE_PAGES);
    qmp_client_execute_async(m->client, "calc-dirty-rate", args, TIMEOUT_MS,
                             g_task_get_cancellable(m->task), begun, m);
}

void
drv_dirty_rate_async(QmpClient *client, const DrvVm *vm, guint ms, GCancellable *cancellable,
                     GAsyncReadyCallback callback, gpointer user_data)
{
    Measuring *m = g_new0(Measuring, 1);
    m->task = g_task_new(client, cancellable, callback, user_data);
    m->client = client;
    m->mode = vm->kvm ? DRV_DIRTY_RING : DRV_DIRTY_SAMPLING;
    m->ms = CLAMP(ms, 50, 60000);
    try_mode(m);
}

gboolean
drv_dirty_rate_finish(GAsyncResult *result, DrvDirtyRate *rate, GError **error)
{
    g_autofree DrvDirtyRate *found = g_task_propagate_pointer(G_TASK(result), error);
    if (found != NULL)
        *rate = *found;
    return found != NULL;
}
