/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A client is a queue of commands over a wire.
 *
 * A command's life: queued in the wire, sent, answered. When its caller stops waiting (timeout,
 * cancellation) before it was sent, it vanishes; after that it stays in the queue without a task,
 * so that its late reply is recognised and dropped and a QEMU that never answers cannot make the
 * queue grow: such commands count against max_inflight like the others.
 *
 * However a connection ends, it ends in qmp_client_shut(): the socket is closed at once, and the
 * bad news are told from the main loop, never from within a caller's call.
 */
#include "qmp/client-private.h"

#include "qmp/json.h"
#include "qmp/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

G_DEFINE_FINAL_TYPE(QmpClient, qmp_client, G_TYPE_OBJECT)

enum { SIGNAL_EVENT, SIGNAL_CLOSED, N_SIGNALS };
static guint signals[N_SIGNALS];

typedef struct {
    QmpClient *client; /* borrowed: the task holds a reference */
    guint64 id;
    char *name;
    GTask *task; /* NULL once the caller has its answer */
    guint timeout_ms;
    GSource *timeout;
    GSource *cancel;
} Command;

GSource *
qmp_client_add_source(QmpClient *client, GSource *source, GSourceFunc func, gpointer data)
{
    g_source_set_callback(source, func, data, NULL);
    g_source_attach(source, client->context);
    return source;
}

void
qmp_clear_source(GSource **source)
{
    if (*source == NULL)
        return;
    g_source_destroy(*source);
    g_clear_pointer(source, g_source_unref);
}

static void
command_free(Command *command)
{
    qmp_clear_source(&command->timeout);
    qmp_clear_source(&command->cancel);
    g_clear_object(&command->task);
    g_free(command->name);
    g_free(command);
}

/* ---- The end ---- */

static gboolean
farewell(gpointer user_data)
{
    QmpClient *client = user_data;
    Command *command;
    while ((command = g_queue_pop_head(&client->commands)) != NULL) {
        g_autoptr(GTask) task = g_steal_pointer(&command->task);
        command_free(command);
        if (task != NULL)
            g_task_return_error(task, g_error_copy(client->close_error));
    }
    g_signal_emit(client, signals[SIGNAL_CLOSED], 0, client->close_error);
    return G_SOURCE_REMOVE;
}

/* From now on only the farewell answers: a timeout must not come before it with another story. */
static void
stop_waiting(gpointer data, gpointer user_data)
{
    Command *command = data;
    qmp_clear_source(&command->timeout);
    qmp_clear_source(&command->cancel);
}

void
qmp_client_shut(QmpClient *client, GError *error)
{
    if (client->state == QMP_CLIENT_CLOSED) {
        g_error_free(error);
        return;
    }
    client->state = QMP_CLIENT_CLOSED;
    client->close_error = error;
    g_clear_pointer(&client->wire, qmp_wire_close);
    g_queue_foreach(&client->commands, stop_waiting, NULL);

    g_autoptr(GSource) idle = g_idle_source_new();
    g_source_set_priority(idle, G_PRIORITY_DEFAULT);
    g_source_set_callback(idle, farewell, g_object_ref(client), g_object_unref);
    g_source_attach(idle, client->context);
}

void
qmp_client_close(QmpClient *client)
{
    g_return_if_fail(QMP_IS_CLIENT(client));
    if (client->state != QMP_CLIENT_CLOSED)
        qmp_client_shut(client,
                        g_error_new(QMP_ERROR, QMP_ERROR_CLOSED,
                                    "this side closed the connection to %s", client->label));
}

/* ---- What comes from QEMU ---- */

static void
protocol_error(QmpClient *client, const char *what)
{
    if (client->connecting != NULL) {
        qmp_connect_fail(client, g_error_new_literal(QMP_ERROR, QMP_ERROR_PROTOCOL, what));
        return;
    }
    qmp_client_shut(client, g_error_new(QMP_ERROR, QMP_ERROR_PROTOCOL,
                                        "%s broke the QMP protocol: %s; the connection is closed",
                                        client->label, what));
}

/* The command a reply is for, taken out of the queue; NULL when there is none. QEMU mostly answers
 * in order, so the first one is it. */
static Command *
take_command(QmpClient *client, const char *id)
{
    gsize prefix = strlen(client->id_prefix);
    guint64 number;
    if (id == NULL || strncmp(id, client->id_prefix, prefix) != 0 ||
        !g_ascii_string_to_unsigned(id + prefix, 10, 1, G_MAXUINT64, &number, NULL))
        return NULL;
    for (GList *l = client->commands.head; l != NULL; l = l->next) {
        Command *command = l->data;
        if (command->id == number) {
            g_queue_delete_link(&client->commands, l);
            return command;
        }
    }
    return NULL;
}

static void
unmatched_reply(QmpClient *client, const QmpMessage *message)
{
    g_autofree char *what = NULL;
    if (message->kind == QMP_MESSAGE_ERROR && message->id == NULL) {
        /* What QEMU says when it could not even parse a command. */
        g_autoptr(GError) said =
            qmp_error_new_command("unknown", message->error_class, message->desc);
        what = g_strdup_printf("an error that belongs to no command (%s)", said->message);
    } else {
        what = g_strdup("a reply to a command that was never sent");
    }
    protocol_error(client, what);
}

static void
handle_reply(QmpClient *client, const QmpMessage *message)
{
    Command *command = take_command(client, message->id);
    if (command == NULL) {
        /* QEMU may still owe a reply to the client before this one: not ours to be upset about
         * while nothing of ours has been answered. */
        if (client->state == QMP_CLIENT_READY || message->id == NULL)
            unmatched_reply(client, message);
        return;
    }
    g_autoptr(GTask) task = g_steal_pointer(&command->task);
    g_autofree char *name = g_steal_pointer(&command->name);
    command_free(command);
    if (task == NULL)
        return; /* nobody waits any more */
    if (message->kind == QMP_MESSAGE_RETURN)
        g_task_return_pointer(task, json_node_copy(message->value),
                              (GDestroyNotify)json_node_unref);
    else
        g_task_return_error(task, qmp_error_new_command(name, message->error_class, message->desc));
}

static void
handle_event(QmpClient *client, const QmpMessage *message)
{
    /* Quarks live forever, and QEMU must not fill memory with names: one that nobody has asked for
     * has no quark, and none is made. */
    GQuark detail = g_quark_try_string(message->event);
    g_signal_emit(client, signals[SIGNAL_EVENT], detail, message->event, message->data,
                  message->timestamp_us);
}

static void
on_message(gpointer owner, const QmpMessage *message)
{
    g_autoptr(QmpClient) client = g_object_ref(owner);
    switch (message->kind) {
    case QMP_MESSAGE_GREETING:
        if (client->state == QMP_CLIENT_GREETING)
            qmp_connect_greeting(client, message);
        else
            protocol_error(client, "a second greeting");
        return;
    case QMP_MESSAGE_EVENT:
        handle_event(client, message);
        return;
    case QMP_MESSAGE_RETURN:
    case QMP_MESSAGE_ERROR:
        handle_reply(client, message);
        return;
    }
}

static void
on_down(gpointer owner, GError *error)
{
    g_autoptr(QmpClient) client = g_object_ref(owner);
    if (client->connecting != NULL) {
        qmp_connect_fail(client, error);
        return;
    }
    g_autoptr(GError) reason = error;
    if (g_error_matches(error, QMP_ERROR, QMP_ERROR_PROTOCOL))
        protocol_error(client, error->message);
    else if (g_error_matches(error, QMP_ERROR, QMP_ERROR_CLOSED))
        qmp_client_shut(client,
                        g_error_new(QMP_ERROR, QMP_ERROR_CLOSED, "%s has quit or was killed: %s",
                                    client->label, error->message));
    else
        qmp_client_shut(client, g_steal_pointer(&reason));
}

void
qmp_client_set_fd(QmpClient *client, int fd)
{
    static const QmpWireOps ops = {.message = on_message, .down = on_down};
    client->peer_pid = qmp_socket_peer_pid(fd);
    GString *label = g_string_new("QEMU");
    if (client->peer_pid > 0)
        g_string_append_printf(label, " (pid %d)", (int)client->peer_pid);
    if (client->path != NULL)
        g_string_append_printf(label, " at '%s'", client->path);
    g_free(client->label);
    client->label = g_string_free(label, FALSE);
    client->wire = qmp_wire_new(fd, client->context, &client->limits, &ops, client);
}

/* ---- Commands ---- */

/* The caller gets 'error' (taken over) for an answer. */
static void
abandon(Command *command, GError *error)
{
    QmpClient *client = command->client;
    g_autoptr(GTask) task = g_steal_pointer(&command->task);
    qmp_clear_source(&command->timeout);
    qmp_clear_source(&command->cancel);
    if (qmp_wire_unsend(client->wire, command->id)) {
        g_queue_remove(&client->commands, command);
        command_free(command);
    }
    g_task_return_error(task, error);
}

static gboolean
on_timeout(gpointer user_data)
{
    Command *command = user_data;
    abandon(command, g_error_new(QMP_ERROR, QMP_ERROR_TIMEOUT,
                                 "%s did not answer '%s' within %u ms: it hangs or is overloaded",
                                 command->client->label, command->name, command->timeout_ms));
    return G_SOURCE_REMOVE;
}

static gboolean
on_cancelled(GCancellable *cancellable, gpointer user_data)
{
    Command *command = user_data;
    abandon(command, g_error_new(G_IO_ERROR, G_IO_ERROR_CANCELLED,
                                 "'%s' was cancelled before QEMU answered", command->name));
    return G_SOURCE_REMOVE;
}

static char *
command_text(QmpClient *client, const char *name, JsonNode *arguments, guint64 id, GError **error)
{
    g_autofree char *id_text = g_strdup_printf("%s%" G_GUINT64_FORMAT, client->id_prefix, id);
    g_autoptr(JsonNode) node = qmp_args("execute", "s", name, "id", "s", id_text, NULL);
    if (arguments != NULL)
        json_object_set_member(json_node_get_object(node), "arguments", json_node_ref(arguments));
    g_autofree char *json = json_to_string(node, FALSE);
    if (!g_utf8_validate(json, -1, NULL)) {
        g_set_error(error, QMP_ERROR, QMP_ERROR_ARGUMENT,
                    "the arguments of '%s' are not UTF-8: use names without other characters",
                    name);
        return NULL;
    }
    return g_strconcat(json, "\n", NULL);
}

/* Takes 'fd' over. FALSE when nothing was queued. */
static gboolean
queue_command(QmpClient *client, const char *name, JsonNode *arguments, int fd, GError **error)
{
    g_autofree char *text = NULL;
    if (client->commands.length >= client->limits.max_inflight)
        g_set_error(error, QMP_ERROR, QMP_ERROR_LIMIT,
                    "'%s' was not sent: %s has not answered the %u commands before it", name,
                    client->label, client->commands.length);
    else
        text = command_text(client, name, arguments, client->last_id + 1, error);
    if (text == NULL) {
        if (fd >= 0)
            close(fd);
        return FALSE;
    }
    if (!qmp_wire_send(client->wire, client->last_id + 1, text, fd, error)) {
        g_prefix_error(error, "'%s' was not sent: ", name);
        return FALSE;
    }
    client->last_id++;
    return TRUE;
}

/* Takes 'task' (a new one), 'arguments' and 'fd' over. */
static void
execute(GTask *task, const char *name, JsonNode *arguments, int fd, guint timeout_ms)
{
    QmpClient *client = g_task_get_source_object(task);
    GCancellable *cancellable = g_task_get_cancellable(task);
    g_autoptr(JsonNode) owned_arguments = arguments;
    GError *error = NULL;
    gboolean queued = FALSE;

    if (client->wire == NULL)
        error = g_error_copy(client->close_error);
    else if (!g_cancellable_set_error_if_cancelled(cancellable, &error))
        queued = queue_command(client, name, arguments, g_steal_fd(&fd), &error);
    if (fd >= 0)
        close(fd);
    if (!queued) {
        g_task_return_error(task, error);
        g_object_unref(task);
        return;
    }

    Command *command = g_new(Command, 1);
    *command = (Command){.client = client,
                         .id = client->last_id,
                         .name = g_strdup(name),
                         .task = task,
                         .timeout_ms = timeout_ms};
    g_queue_push_tail(&client->commands, command);
    if (timeout_ms > 0)
        command->timeout =
            qmp_client_add_source(client, g_timeout_source_new(timeout_ms), on_timeout, command);
    if (cancellable != NULL) {
        command->cancel = qmp_client_add_source(client, g_cancellable_source_new(cancellable),
                                                G_SOURCE_FUNC(on_cancelled), command);
        /* Before the wire gets to send it. */
        g_source_set_priority(command->cancel, G_PRIORITY_HIGH);
    }
}

/* A task that answers on the client's context, whatever the caller has pushed. */
static GTask *
task_new(QmpClient *client, GCancellable *cancellable, GAsyncReadyCallback callback,
         gpointer user_data, gpointer tag)
{
    g_main_context_push_thread_default(client->context);
    GTask *task = g_task_new(client, cancellable, callback, user_data);
    g_main_context_pop_thread_default(client->context);
    g_task_set_source_tag(task, tag);
    /* QEMU's answer counts more than a cancellation that comes after it. */
    g_task_set_check_cancellable(task, FALSE);
    return task;
}

void
qmp_client_execute_async(QmpClient *client, const char *command, JsonNode *arguments,
                         guint timeout_ms, GCancellable *cancellable, GAsyncReadyCallback callback,
                         gpointer user_data)
{
    g_return_if_fail(QMP_IS_CLIENT(client) && command != NULL);
    g_return_if_fail(arguments == NULL || JSON_NODE_HOLDS_OBJECT(arguments));
    GTask *task = task_new(client, cancellable, callback, user_data, qmp_client_execute_async);
    execute(task, command, arguments, -1, timeout_ms);
}

void
qmp_client_execute_with_fd_async(QmpClient *client, const char *command, JsonNode *arguments,
                                 int fd, guint timeout_ms, GCancellable *cancellable,
                                 GAsyncReadyCallback callback, gpointer user_data)
{
    g_return_if_fail(QMP_IS_CLIENT(client) && command != NULL);
    g_return_if_fail(arguments == NULL || JSON_NODE_HOLDS_OBJECT(arguments));
    GTask *task = task_new(client, cancellable, callback, user_data, qmp_client_execute_async);
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) {
        int code = errno;
        g_clear_pointer(&arguments, json_node_unref);
        g_task_return_new_error(task, QMP_ERROR, QMP_ERROR_IO,
                                "'%s' was not sent: cannot duplicate file descriptor %d: %s",
                                command, fd, g_strerror(code));
        g_object_unref(task);
        return;
    }
    execute(task, command, arguments, copy, timeout_ms);
}

JsonNode *
qmp_client_execute_finish(QmpClient *client, GAsyncResult *result, GError **error)
{
    g_return_val_if_fail(g_task_is_valid(result, client), NULL);
    return g_task_propagate_pointer(G_TASK(result), error);
}

void
qmp_client_human_async(QmpClient *client, const char *line, guint timeout_ms,
                       GCancellable *cancellable, GAsyncReadyCallback callback, gpointer user_data)
{
    g_return_if_fail(line != NULL);
    qmp_client_execute_async(client, "human-monitor-command",
                             qmp_args("command-line", "s", line, NULL), timeout_ms, cancellable,
                             callback, user_data);
}

char *
qmp_client_human_finish(QmpClient *client, GAsyncResult *result, GError **error)
{
    g_autoptr(JsonNode) node = qmp_client_execute_finish(client, result, error);
    if (node == NULL)
        return NULL;
    const char *text = qmp_node_string(node);
    if (text == NULL)
        g_set_error(error, QMP_ERROR, QMP_ERROR_UNEXPECTED,
                    "%s answered 'human-monitor-command' with something else than text",
                    client->label);
    return g_strdup(text);
}

/* ---- The object ---- */

const QmpVersion *
qmp_client_get_version(QmpClient *client)
{
    g_return_val_if_fail(QMP_IS_CLIENT(client), NULL);
    return &client->version;
}

pid_t
qmp_client_get_peer_pid(QmpClient *client)
{
    g_return_val_if_fail(QMP_IS_CLIENT(client), 0);
    return client->peer_pid;
}

const char *
qmp_client_get_path(QmpClient *client)
{
    g_return_val_if_fail(QMP_IS_CLIENT(client), NULL);
    return client->path;
}

gboolean
qmp_client_is_closed(QmpClient *client)
{
    g_return_val_if_fail(QMP_IS_CLIENT(client), TRUE);
    return client->state == QMP_CLIENT_CLOSED;
}

void
qmp_client_set_limits(QmpClient *client, const QmpLimits *limits)
{
    g_return_if_fail(QMP_IS_CLIENT(client));
    client->limits = *limits;
}

static void
qmp_client_init(QmpClient *client)
{
    client->context = g_main_context_ref_thread_default();
    client->limits = QMP_LIMITS_DEFAULT;
    client->label = g_strdup("QEMU");
    client->id_prefix = g_strdup_printf("q%08x-", g_random_int());
    g_queue_init(&client->commands);
}

/* Tasks hold a reference, so the commands left here are those nobody waits for. */
static void
qmp_client_finalize(GObject *object)
{
    QmpClient *client = QMP_CLIENT(object);
    g_clear_pointer(&client->wire, qmp_wire_close);
    g_queue_clear_full(&client->commands, (GDestroyNotify)command_free);
    g_clear_error(&client->close_error);
    g_free(client->path);
    g_free(client->label);
    g_free(client->package);
    g_free(client->id_prefix);
    g_main_context_unref(client->context);
    G_OBJECT_CLASS(qmp_client_parent_class)->finalize(object);
}

static void
qmp_client_class_init(QmpClientClass *klass)
{
    G_OBJECT_CLASS(klass)->finalize = qmp_client_finalize;
    signals[SIGNAL_EVENT] =
        g_signal_new("event", QMP_TYPE_CLIENT, G_SIGNAL_RUN_LAST | G_SIGNAL_DETAILED, 0, NULL, NULL,
                     NULL, G_TYPE_NONE, 3, G_TYPE_STRING, JSON_TYPE_OBJECT, G_TYPE_INT64);
    signals[SIGNAL_CLOSED] = g_signal_new("closed", QMP_TYPE_CLIENT, G_SIGNAL_RUN_LAST, 0, NULL,
                                          NULL, NULL, G_TYPE_NONE, 1, G_TYPE_ERROR);
}
