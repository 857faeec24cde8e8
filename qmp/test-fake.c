/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/test-fake.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void
fake_watchdog(void)
{
    alarm(120);
}

void
fake_store(GObject *object, GAsyncResult *result, gpointer user_data)
{
    GAsyncResult **out = user_data;
    g_assert_null(*out); /* exactly once */
    *out = g_object_ref(result);
}

JsonNode *
fake_finish(QmpClient *client, GAsyncResult **result, GError **error)
{
    fake_wait(*result != NULL);
    JsonNode *node = qmp_client_execute_finish(client, *result, error);
    g_clear_object(result);
    return node;
}

void
fake_settle(void)
{
    while (g_main_context_iteration(NULL, FALSE))
        ;
}

Fake *
fake_new(guint timeout_ms)
{
    int fds[2];
    g_assert_no_errno(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
    return fake_new_on(fds[0], fds[1], timeout_ms);
}

Fake *
fake_new_on(int server_fd, int client_fd, guint timeout_ms)
{
    Fake *fake = g_new0(Fake, 1);
    fake->fd = server_fd;
    fake->in = g_string_new(NULL);
    fake->events = g_ptr_array_new_with_free_func(g_free);
    qmp_client_connect_fd_async(client_fd, timeout_ms, NULL, fake_store, &fake->result);
    return fake;
}

QmpClient *
fake_connect_finish(Fake *fake, GError **error)
{
    fake_wait(fake->result != NULL);
    fake->client = qmp_client_connect_finish(fake->result, error);
    g_clear_object(&fake->result);
    return fake->client;
}

static void
on_event(QmpClient *client, const char *name, JsonObject *data, gint64 timestamp_us,
         gpointer user_data)
{
    Fake *fake = user_data;
    const char *x = qmp_get_string(data, "x");
    g_ptr_array_add(fake->events, g_strdup_printf("%s %s %" G_GINT64_FORMAT, name,
                                                  x != NULL ? x : "-", timestamp_us));
}

static void
on_closed(QmpClient *client, const GError *error, gpointer user_data)
{
    Fake *fake = user_data;
    fake->n_closed++;
    g_clear_error(&fake->closed);
    fake->closed = g_error_copy(error);
}

Fake *
fake_new_ready(void)
{
    Fake *fake = fake_new(0);
    fake_make_ready(fake);
    return fake;
}

void
fake_make_ready(Fake *fake)
{
    GError *error = NULL;
    fake_say(fake, FAKE_GREETING);
    g_autofree char *id = fake_hear_command(fake, "qmp_capabilities");
    fake_return(fake, id, "{}");
    fake_connect_finish(fake, &error);
    g_assert_no_error(error);
    g_signal_connect(fake->client, "event", G_CALLBACK(on_event), fake);
    g_signal_connect(fake->client, "closed", G_CALLBACK(on_closed), fake);
}

void
fake_free(Fake *fake)
{
    if (fake->client != NULL) {
        g_signal_handlers_disconnect_by_data(fake->client, fake);
        qmp_client_close(fake->client);
        fake_settle();
        /* Nothing is left behind that keeps a client alive. */
        g_assert_finalize_object(fake->client);
    }
    fake_hang_up(fake);
    g_clear_object(&fake->result);
    g_string_free(fake->in, TRUE);
    g_ptr_array_unref(fake->events);
    g_clear_error(&fake->closed);
    g_free(fake);
}

void
fake_say(Fake *fake, const char *text)
{
    gsize len = strlen(text);
    while (len > 0) {
        gssize n = send(fake->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EPIPE)
                return; /* had enough already */
            g_assert_cmpint(errno, ==, EAGAIN);
            g_main_context_iteration(NULL, TRUE); /* the client reads */
            continue;
        }
        text += n;
        len -= (gsize)n;
    }
}

void
fake_hang_up(Fake *fake)
{
    if (fake->fd >= 0)
        close(fake->fd);
    fake->fd = -1;
}

char *
fake_hear(Fake *fake)
{
    char *end;
    while ((end = strchr(fake->in->str, '\n')) == NULL) {
        char buf[4096];
        gssize n = recv(fake->fd, buf, sizeof buf, MSG_DONTWAIT);
        if (n > 0)
            g_string_append_len(fake->in, buf, n);
        else if (n < 0 && errno == EAGAIN)
            g_main_context_iteration(NULL, TRUE); /* the client writes */
        else
            g_error("the client hung up");
    }
    gsize len = (gsize)(end - fake->in->str);
    char *line = g_strndup(fake->in->str, len);
    g_string_erase(fake->in, 0, (gssize)len + 1);
    return line;
}

char *
fake_hear_command(Fake *fake, const char *command)
{
    g_autofree char *line = fake_hear(fake);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = json_from_string(line, &error);
    g_assert_no_error(error);
    JsonObject *object = qmp_node_object(node);
    g_assert_cmpstr(qmp_get_string(object, "execute"), ==, command);
    return g_strdup(qmp_get_string(object, "id"));
}

void
fake_return(Fake *fake, const char *id, const char *value)
{
    g_autofree char *text = g_strdup_printf("{\"return\": %s, \"id\": \"%s\"}\r\n", value, id);
    fake_say(fake, text);
}
