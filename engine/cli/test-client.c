/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/client.h"

#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <string.h>

#include "common/error.h"
#include "engine/api/fake-backend.h"
#include "common/json.h"

/* The client against the real server, and against what is none. */

#define JOB(id, state, final)                                                                      \
    "{\"job\":\"" id "\",\"kind\":\"migrate\",\"state\":\"" state "\",\"final\":" final "}"

typedef struct {
    char *dir;
    char *path;
    FakeBackend *fake;
    DrvApiServer *server;
    DrvClient *client;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    f->dir = g_dir_make_tmp("drover-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "api.sock", NULL);
    f->fake = fake_backend_new();
    f->server = drv_api_server_new(f->path, &fake_backend_ops, f->fake, &error);
    g_assert_no_error(error);
    f->fake->server = f->server;
    fake_backend_add(f->fake, JOB("j1", "copying", "false"));
    f->client = drv_client_new(f->path, 30, &error);
    g_assert_no_error(error);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    drv_client_free(f->client);
    drv_api_server_free(f->server);
    fake_backend_free(f->fake);
    g_unlink(f->path);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->path);
    g_free(f->dir);
}

static void
assert_error(DrvClient *client, const char *method, int code, const char *why)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_client_call(client, method, "/v1/jobs/nope", NULL, NULL, &error));
    g_assert_error(error, DRV_ERROR, code);
    if (strstr(error->message, why) == NULL)
        g_error("\"%s\" does not say \"%s\"", error->message, why);
}

static void
test_calls(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) status =
        drv_client_call(f->client, "GET", "/v1/status", NULL, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(drv_json_string(status, "name", NULL), ==, "alpha");
    g_autoptr(JsonObject) spec = json_object_new();
    json_object_set_string_member(spec, "qmp", "/run/\"odd\" \xc3\xa9.qmp");
    g_autoptr(JsonObject) reply =
        drv_client_call(f->client, "POST", "/v1/migrate", spec, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(drv_json_string(reply, "job", NULL), ==, "new-1");
    g_assert_true(json_object_equal(f->fake->spec, spec));

    assert_error(f->client, "GET", DRV_ERROR_NOT_FOUND, "there is no job nope");
    for (int code = 0; code < DRV_ERROR_LAST; code++) {
        fake_backend_refuse(f->fake, code, "just so");
        assert_error(f->client, "GET", code, "just so");
    }
    g_autofree char *path = drv_client_job_path("a/../b ?", "/watch");
    g_assert_cmpstr(path, ==, "/v1/jobs/a%2F..%2Fb%20%3F/watch");
}

/* A restart between two calls is not noticed. */
static void
test_restart(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) before =
        drv_client_call(f->client, "GET", "/v1/status", NULL, NULL, &error);
    drv_api_server_free(f->server);
    f->server = NULL;
    assert_error(f->client, "POST", DRV_ERROR_UNREACHABLE, "there is no socket");
    f->fake->server = f->server = drv_api_server_new(f->path, &fake_backend_ops, f->fake, &error);
    g_autoptr(JsonObject) after =
        drv_client_call(f->client, "GET", "/v1/status", NULL, NULL, &error);
    g_assert_no_error(error);
    g_assert_nonnull(after);
}

/* A server that is none: takes a connection, reads something, says 'reply' and closes; with NULL
 * for a reply it holds the connection and says nothing. */
typedef struct {
    GSocketService *service;
    const char *reply;
    GPtrArray *connections; /* of GSocketConnection: those that are open */
    char request[4096];
} Impostor;

static void
on_replied(GObject *source, GAsyncResult *result, gpointer data)
{
    Impostor *impostor = data;
    g_output_stream_write_all_finish(G_OUTPUT_STREAM(source), result, NULL, NULL);
    GIOStream *io = g_object_get_data(source, "io");
    g_io_stream_close(io, NULL, NULL);
    g_ptr_array_remove(impostor->connections, io);
}

/* Reads first: a socket that is closed with data in it loses the reply. */
static void
on_request(GObject *source, GAsyncResult *result, gpointer data)
{
    Impostor *impostor = data;
    GIOStream *io = g_object_get_data(source, "io");
    GOutputStream *out = g_io_stream_get_output_stream(io);
    g_input_stream_read_finish(G_INPUT_STREAM(source), result, NULL);
    g_object_set_data(G_OBJECT(out), "io", io);
    g_output_stream_write_all_async(out, impostor->reply, strlen(impostor->reply),
                                    G_PRIORITY_DEFAULT, NULL, on_replied, impostor);
}

static gboolean
on_victim(GSocketService *service, GSocketConnection *connection, GObject *source, gpointer data)
{
    Impostor *impostor = data;
    GInputStream *in = g_io_stream_get_input_stream(G_IO_STREAM(connection));
    g_ptr_array_add(impostor->connections, g_object_ref(connection));
    g_object_set_data(G_OBJECT(in), "io", connection);
    if (impostor->reply != NULL)
        g_input_stream_read_async(in, impostor->request, sizeof impostor->request,
                                  G_PRIORITY_DEFAULT, NULL, on_request, impostor);
    return TRUE;
}

static void
impostor_start(Impostor *impostor, Fixture *f, const char *reply)
{
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(f->path);
    g_autoptr(GError) error = NULL;
    g_clear_pointer(&f->server, drv_api_server_free);
    f->fake->server = NULL;
    *impostor = (Impostor){.service = g_socket_service_new(),
                           .reply = reply,
                           .connections = g_ptr_array_new_with_free_func(g_object_unref)};
    g_socket_listener_add_address(G_SOCKET_LISTENER(impostor->service), address,
                                  G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, NULL, NULL,
                                  &error);
    g_assert_no_error(error);
    g_signal_connect(impostor->service, "incoming", G_CALLBACK(on_victim), impostor);
}

static void
impostor_stop(Impostor *impostor, Fixture *f)
{
    g_socket_service_stop(impostor->service);
    g_socket_listener_close(G_SOCKET_LISTENER(impostor->service));
    while (impostor->reply != NULL && impostor->connections->len > 0)
        g_main_context_iteration(NULL, TRUE);
    g_ptr_array_unref(impostor->connections);
    g_clear_object(&impostor->service);
    g_unlink(f->path);
}

static void
test_impostors(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *reply;
        int get, post;
        const char *why;
    } cases[] = {
        {"", DRV_ERROR_UNREACHABLE, DRV_ERROR_IN_DOUBT, "gave no answer"},
        {"SSH-2.0-x\r\n", DRV_ERROR_UNREACHABLE, DRV_ERROR_IN_DOUBT, "gave no answer"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", DRV_ERROR_PROTOCOL,
         DRV_ERROR_PROTOCOL, "does not answer as droverd does (HTTP status 200)"},
        {"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", DRV_ERROR_PROTOCOL,
         DRV_ERROR_PROTOCOL, "(HTTP status 404)"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"job\"", DRV_ERROR_UNREACHABLE,
         DRV_ERROR_IN_DOUBT, "gave no answer"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        Impostor impostor;
        impostor_start(&impostor, f, cases[i].reply);
        assert_error(f->client, "GET", cases[i].get, cases[i].why);
        assert_error(f->client, "POST", cases[i].post, cases[i].why);
        impostor_stop(&impostor, f);
    }
}

static gboolean
cancel_it(gpointer data)
{
    g_cancellable_cancel(data);
    return G_SOURCE_REMOVE;
}

/* A daemon that hangs: the timeout ends the wait, and so does the user. */
static void
test_hang(Fixture *f, gconstpointer data)
{
    Impostor impostor;
    impostor_start(&impostor, f, NULL);
    g_autoptr(DrvClient) hasty = drv_client_new(f->path, 1, NULL);
    assert_error(hasty, "GET", DRV_ERROR_UNREACHABLE, "gave no answer");
    assert_error(hasty, "POST", DRV_ERROR_IN_DOUBT, "not known whether it did");
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    g_idle_add(cancel_it, cancellable);
    g_assert_null(drv_client_call(f->client, "POST", "/v1/migrate", NULL, cancellable, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_CANCELLED);
    impostor_stop(&impostor, f);
}

static void
test_paths(Fixture *f, gconstpointer data)
{
    g_autofree char *name = g_strnfill(200, 'x');
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_client_new(name, 30, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);

    g_autofree char *file = g_build_filename(f->dir, "file", NULL);
    g_assert_true(g_file_set_contents(file, "", 0, NULL));
    g_autoptr(DrvClient) client = drv_client_new(file, 30, NULL);
    assert_error(client, "GET", DRV_ERROR_UNREACHABLE, "nobody serves");
    g_unlink(file);
}

typedef struct {
    GString *states;
    GError *error;
    guint lines;
    gboolean ended;
    DrvClientWatch *watch;
    gboolean leave; /* at the first line */
} Seen;

static void
on_line(JsonObject *job, gpointer data)
{
    Seen *seen = data;
    g_string_append_printf(seen->states, "%s ", drv_json_string(job, "state", "?"));
    seen->lines++;
    if (seen->leave)
        drv_client_unwatch(seen->watch);
}

static void
on_end(const GError *error, gpointer data)
{
    Seen *seen = data;
    seen->error = error != NULL ? g_error_copy(error) : NULL;
    seen->ended = TRUE;
}

static void
seen_clear(Seen *seen)
{
    g_string_free(seen->states, TRUE);
    g_clear_error(&seen->error);
}

static void
test_watch(Fixture *f, gconstpointer data)
{
    Seen seen = {.states = g_string_new(NULL)};
    drv_client_watch(f->client, "j1", on_line, on_end, &seen);
    fake_wait_count(&seen.lines, 1);
    fake_backend_patch(f->fake, "j1", "{\"state\":\"loaded\"}");
    fake_backend_patch(f->fake, "j1", "{\"state\":\"done\",\"final\":true}");
    fake_wait(&seen.ended);
    g_assert_no_error(seen.error);
    g_assert_true(g_str_has_suffix(seen.states->str, "copying loaded done "));
    seen_clear(&seen);

    seen = (Seen){.states = g_string_new(NULL)};
    drv_client_watch(f->client, "nope", on_line, on_end, &seen);
    fake_wait(&seen.ended);
    g_assert_error(seen.error, DRV_ERROR, DRV_ERROR_NOT_FOUND);
    g_assert_cmpuint(seen.lines, ==, 0);
    seen_clear(&seen);
}

/* The server goes in the middle; who has left is not called again. */
static void
test_watch_ends(Fixture *f, gconstpointer data)
{
    Seen leaver = {.states = g_string_new(NULL), .leave = TRUE};
    Seen stayer = {.states = g_string_new(NULL)};
    leaver.watch = drv_client_watch(f->client, "j1", on_line, on_end, &leaver);
    stayer.watch = drv_client_watch(f->client, "j1", on_line, on_end, &stayer);
    fake_wait_count(&leaver.lines, 1);
    fake_wait_count(&stayer.lines, 2);
    g_clear_pointer(&f->server, drv_api_server_free);
    f->fake->server = NULL;
    fake_wait(&stayer.ended);
    g_clear_pointer(&f->client, drv_client_free);
    g_assert_cmpuint(leaver.lines, ==, 1);
    g_assert_false(leaver.ended);
    seen_clear(&leaver);
    seen_clear(&stayer);
}

static void
test_watch_garbage(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *reply;
        int code;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\n\r\n" JOB("j1", "copying", "false") "\nnonsense\n",
         DRV_ERROR_PROTOCOL},
        {"HTTP/1.1 200 OK\r\n\r\n" JOB(
             "j1", "copying", "false") "\n"
                                       "{\"error\":{\"class\":\"io\",\"message\":\"gone\"}}\n",
         DRV_ERROR_IO},
        {"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", DRV_ERROR_PROTOCOL},
        {"", DRV_ERROR_UNREACHABLE},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        Impostor impostor;
        Seen seen = {.states = g_string_new(NULL)};
        impostor_start(&impostor, f, cases[i].reply);
        drv_client_watch(f->client, "j1", on_line, on_end, &seen);
        fake_wait(&seen.ended);
        g_assert_error(seen.error, DRV_ERROR, cases[i].code);
        g_assert_cmpuint(seen.lines, ==, i < 2 ? 1 : 0);
        seen_clear(&seen);
        impostor_stop(&impostor, f);
    }
    g_autofree char *endless = g_strnfill(2 << 20, 'x');
    g_autofree char *reply = g_strconcat("HTTP/1.1 200 OK\r\n\r\n", endless, NULL);
    Impostor impostor;
    Seen seen = {.states = g_string_new(NULL)};
    impostor_start(&impostor, f, reply);
    drv_client_watch(f->client, "j1", on_line, on_end, &seen);
    fake_wait(&seen.ended);
    g_assert_error(seen.error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(seen.error->message, "a line without end"));
    seen_clear(&seen);
    impostor_stop(&impostor, f);
}

#define ADD(name, func) g_test_add("/client/" name, Fixture, NULL, set_up, func, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("calls", test_calls);
    ADD("restart", test_restart);
    ADD("impostors", test_impostors);
    ADD("hang", test_hang);
    ADD("paths", test_paths);
    ADD("watch", test_watch);
    ADD("watch-ends", test_watch_ends);
    ADD("watch-garbage", test_watch_garbage);
    return g_test_run();
}
