/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/api/server.h"

#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <libsoup/soup.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/api/fake-backend.h"
#include "common/json.h"
#include "engine/api/watch.h"

typedef struct {
    char *dir;
    char *path;
    FakeBackend *fake;
    DrvApiServer *server;
} Fixture;

#define JOB(id, state, final)                                                                      \
    "{\"job\":\"" id "\",\"kind\":\"migrate\",\"state\":\"" state "\",\"final\":" final "}"

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
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    drv_api_server_free(f->server);
    fake_backend_free(f->fake);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0); /* the socket is gone, too */
    g_free(f->path);
    g_free(f->dir);
}

/* One exchange as a plain program would do it, on a thread, since the server has this one. */
typedef struct {
    const char *path;
    const char *request;
    gsize len;
    GString *reply; /* until the server closes */
    gboolean done;
} Exchange;

static GSocketConnection *
connect_to(const char *path)
{
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    g_autoptr(GError) error = NULL;
    GSocketConnection *connection =
        g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address), NULL, &error);
    g_assert_no_error(error);
    return connection;
}

static gboolean
set_flag(gpointer data)
{
    *(gboolean *)data = TRUE;
    return G_SOURCE_REMOVE;
}

static gpointer
exchange_thread(gpointer data)
{
    Exchange *x = data;
    g_autoptr(GSocketConnection) connection = connect_to(x->path);
    GIOStream *io = G_IO_STREAM(connection);
    g_output_stream_write_all(g_io_stream_get_output_stream(io), x->request, x->len, NULL, NULL,
                              NULL);
    g_socket_shutdown(g_socket_connection_get_socket(connection), FALSE, TRUE, NULL);
    char buf[4096];
    gssize n;
    while ((n = g_input_stream_read(g_io_stream_get_input_stream(io), buf, sizeof buf, NULL,
                                    NULL)) > 0)
        g_string_append_len(x->reply, buf, n);
    g_idle_add(set_flag, &x->done);
    return NULL;
}

/* The whole reply, head and body. Owned by the caller. */
static char *
exchange(Fixture *f, const char *request, gsize len)
{
    Exchange x = {f->path, request, len, g_string_new(NULL), FALSE};
    GThread *thread = g_thread_new("client", exchange_thread, &x);
    fake_wait(&x.done);
    g_thread_join(thread);
    return g_string_free(x.reply, FALSE);
}

static char *
ask(Fixture *f, const char *method, const char *path, const char *body)
{
    g_autofree char *request = g_strdup_printf(
        "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
        method, path, strlen(body), body);
    return exchange(f, request, strlen(request));
}

static void
assert_reply(const char *reply, guint status, const char *contains)
{
    g_autofree char *head = g_strdup_printf("HTTP/1.1 %u ", status);
    if (!g_str_has_prefix(reply, head) || strstr(reply, contains) == NULL)
        g_error("expected %u with \"%s\", got: %s", status, contains, reply);
}

static void
check(Fixture *f, const char *method, const char *path, const char *body, guint status,
      const char *contains)
{
    g_autofree char *reply = ask(f, method, path, body);
    assert_reply(reply, status, contains);
}

static void
test_routes(Fixture *f, gconstpointer data)
{
    check(f, "GET", "/v1/status", "", 200, "\"name\":\"alpha\"");
    fake_backend_add(f->fake, JOB("j2", "queued", "false"));
    check(f, "GET", "/v1/jobs", "", 200, "{\"jobs\":[{\"job\":\"j2\"");
    g_autofree char *one = ask(f, "GET", "/v1/jobs?limit=1", "");
    assert_reply(one, 200, "\"job\":\"j2\"");
    g_assert_null(strstr(one, "\"job\":\"j1\""));
    check(f, "GET", "/v1/jobs/j1", "", 200, "\"state\":\"copying\"");

    check(f, "POST", "/v1/migrate", "{\"qmp\":\"/a\"}", 201, "{\"job\":\"new-1\"}\n");
    g_assert_cmpstr(drv_json_string(f->fake->spec, "qmp", NULL), ==, "/a");
    g_assert_cmpstr(f->fake->asked, ==, "POST /v1/migrate|new-1|");
    g_assert_cmpint(f->fake->asked_by, ==, getuid());
    check(f, "POST", "/v1/tunnels", "{\"listen\":\"/l\"}", 201, "Location: /v1/jobs/new-2\r\n");
    g_assert_cmpstr(drv_json_string(f->fake->spec, "listen", NULL), ==, "/l");
    check(f, "POST", "/v1/jobs/j1/cancel", "", 202, "\"job\":\"j1\"");
    g_assert_cmpstr(f->fake->asked, ==, "POST /v1/jobs/*/cancel|j1|");
    check(f, "GET", "/v1/jobs/j1", "", 200, "\"job\":\"j1\"");
    g_assert_cmpstr(f->fake->asked, ==, "POST /v1/jobs/*/cancel|j1|"); /* looking is not asking */
    g_assert_cmpuint(f->fake->cancels, ==, 1);
    check(f, "POST", "/v1/jobs/j1/resolve", "{\"run_on\":\"dest\"}", 202, "\"job\":\"j1\"");
    g_assert_cmpstr(f->fake->run_on, ==, "dest");
    f->fake->forgets = TRUE;
    check(f, "POST", "/v1/jobs/j1/cancel", "", 202, "{\"job\":\"j1\",\"final\":true}");
}

static void
test_bad_requests(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *method, *path, *body;
        guint status;
        const char *contains;
    } cases[] = {
        {"GET", "/", "", 404, "\"class\":\"not-found\",\"message\":\"there is nothing at /:"},
        {"GET", "/v2/status", "", 404, "there is nothing at /v2/status"},
        {"GET", "/v1/jobs/", "", 404, "there is nothing at"},
        {"GET", "/v1/jobs/j1/", "", 404, "there is nothing at"},
        {"GET", "/v1/jobs/j1/watch/x", "", 404, "there is nothing at"},
        {"GET", "/v1/statusx", "", 404, "there is nothing at"},
        {"GET", "/v1/jobs/nope", "", 404, "there is no job nope"},
        {"GET", "/v1/jobs/%1b%5b2J", "", 404, "there is no job \\\"\\\\033[2J\\\""},
        {"GET", "/v1/jobs/nope/watch", "", 404, "there is no job nope"},
        {"POST", "/v1/jobs/nope/cancel", "", 404, "there is no job nope"},
        {"GET", "/v1/jobs/%2e%2e%2fstatus", "", 400, "\"the request is malformed\""},
        {"GET", "/v1/metrics", "", 200, "text/plain; version=0.0.4"},
        {"GET", "/v1/metrics", "", 200, "\r\n\r\nfake_up 1\n"},
        {"GET", "/v1/numa", "", 200, "\"cpus\":\"0-7\""},
        {"POST", "/v1/numa", "[", 400, "the request's body is"},
        {"POST", "/v1/disks", "[", 400, "the request's body is"},
        {"GET", "/v1/disks", "", 405, "/v1/disks takes POST only"},
        {"POST", "/v1/status", "", 405, "\"/v1/status takes GET only, not POST\""},
        {"DELETE", "/v1/jobs/j1", "", 405, "Allow: GET\r\n"},
        {"G\xf2T", "/v1/jobs/j1", "", 405, "takes GET only, not G\\\\362T\""},
        {"GET", "/v1/migrate", "", 405, "/v1/migrate takes POST only"},
        {"POST", "/v1/migrate", "", 400, "the request's body is not a JSON object"},
        {"POST", "/v1/migrate", "[1]", 400, "the request's body is not a JSON object"},
        {"POST", "/v1/migrate", "{\"a\":", 400, "the request's body is not JSON: "},
        {"POST", "/v1/copies", "[]", 400, "the request's body is not a JSON object"},
        {"POST", "/v1/tunnels", "\"x\"", 400, "the request's body is not a JSON object"},
        {"POST", "/v1/jobs/j1/resolve", "{}", 400, "it must be \\\"source\\\" or \\\"dest\\\""},
        {"POST", "/v1/jobs/j1/resolve", "{\"run_on\":3}", 400, "\\\"run_on\\\" is missing or"},
        {"GET", "/v1/jobs?limit=0", "", 400, "\\\"limit\\\" is \\\"0\\\": it must be"},
        {"GET", "/v1/jobs?limit=1001", "", 400, "a whole number from 1 to 1000"},
        {"GET", "/v1/jobs?limit=ten", "", 400, "\\\"limit\\\" is \\\"ten\\\""},
        {"GET", "/v1/jobs/j1/watch?interval_ms=1", "", 400, "from 50 to 10000"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++)
        check(f, cases[i].method, cases[i].path, cases[i].body, cases[i].status, cases[i].contains);
    g_assert_cmpuint(f->fake->started, ==, 0);
    check(f, "GET", "/v1/status", "", 200, "alpha");
}

/* The backend's errors keep class and message; the HTTP status fits the class. */
static void
test_backend_errors(Fixture *f, gconstpointer data)
{
    static const guint statuses[DRV_ERROR_LAST] = {
        [DRV_ERROR_USAGE] = 400,     [DRV_ERROR_IO] = 500,        [DRV_ERROR_UNREACHABLE] = 502,
        [DRV_ERROR_TLS] = 502,       [DRV_ERROR_PROTOCOL] = 502,  [DRV_ERROR_QEMU] = 502,
        [DRV_ERROR_STATE] = 409,     [DRV_ERROR_MISMATCH] = 409,  [DRV_ERROR_TIMEOUT] = 504,
        [DRV_ERROR_CANCELLED] = 409, [DRV_ERROR_NOT_FOUND] = 404, [DRV_ERROR_LIMIT] = 503,
        [DRV_ERROR_IN_DOUBT] = 409,
    };
    static const struct {
        const char *method, *path, *body;
    } calls[] = {
        {"GET", "/v1/jobs", ""},
        {"GET", "/v1/jobs/j1", ""},
        {"GET", "/v1/jobs/j1/watch", ""},
        {"POST", "/v1/migrate", "{}"},
        {"POST", "/v1/tunnels", "{}"},
        {"POST", "/v1/copies", "{}"},
        {"POST", "/v1/predict", "{}"},
        {"POST", "/v1/numa", "{}"},
        {"POST", "/v1/disks", "{}"},
        {"POST", "/v1/jobs/j1/cancel", ""},
        {"POST", "/v1/jobs/j1/resolve", "{\"run_on\":\"source\"}"},
    };
    for (int code = 0; code < DRV_ERROR_LAST; code++) {
        guint call = (guint)code % G_N_ELEMENTS(calls);
        g_autofree char *contains = g_strdup_printf(
            "{\"error\":{\"class\":\"%s\",\"message\":\"no luck\"}}", drv_error_code_name(code));
        fake_backend_refuse(f->fake, code, "no luck");
        check(f, calls[call].method, calls[call].path, calls[call].body, statuses[code], contains);
    }
    for (guint i = 0; i < G_N_ELEMENTS(calls); i++) {
        g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*broke its contract*");
        f->fake->mute = TRUE;
        check(f, calls[i].method, calls[i].path, calls[i].body, 500, "droverd failed to answer");
        g_test_assert_expected_messages();
    }
}

static void
test_large_body(Fixture *f, gconstpointer data)
{
    gsize len = DRV_API_MAX_BODY + 1;
    g_autofree char *body = g_strnfill(len, ' ');
    memcpy(body, "{}", 2);
    const char *head = "POST /v1/migrate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    g_autofree char *sized = g_strdup_printf("%sContent-Length: %zu\r\n\r\n%s", head, len, body);
    g_autofree char *reply = exchange(f, sized, strlen(sized));
    assert_reply(reply, 413, "the request's body is too large: it may have 1048576 bytes");

    g_autofree char *chunked = g_strdup_printf(
        "%sTransfer-Encoding: chunked\r\n\r\n%zx\r\n%s\r\n0\r\n\r\n", head, len, body);
    g_autofree char *again = exchange(f, chunked, strlen(chunked));
    assert_reply(again, 413, "too large");
    g_assert_cmpuint(f->fake->started, ==, 0);

    body[len - 1] = '\0'; /* as much as is allowed */
    check(f, "POST", "/v1/migrate", body, 201, "new-1");

    g_autofree char *deep = g_strnfill(DRV_API_MAX_BODY, '[');
    check(f, "POST", "/v1/migrate", deep, 400, "nested more than 32 levels deep");
}

static void
test_garbage(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *bytes;
        gsize len;
    } cases[] = {
        {"\0\0\0\0\r\n\r\n", 8},
        {"GET\r\n\r\n", 7},
        {"GET /v1/status HTTP/9.9\r\n\r\n", 27},
        {"GET /v1/status HTTP/1.0\r\n\r\n", 27}, /* no Host: libsoup asks for an address */
        {"POST /v1/migrate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 58},
        {"POST /v1/migrate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 71},
        {"GET /v1/jobs/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 58},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *reply = exchange(f, cases[i].bytes, cases[i].len);
        g_assert_null(strstr(reply, " 201 "));
        check(f, "GET", "/v1/status", "", 200, "alpha");
    }
    g_assert_cmpuint(f->fake->started, ==, 0);
}

/* One connection too many is told so; when another has gone, there is room again. */
static void
test_many_connections(Fixture *f, gconstpointer data)
{
    g_autoptr(GPtrArray) open = g_ptr_array_new_with_free_func(g_object_unref);
    for (guint i = 0; i < DRV_API_MAX_CONNECTIONS; i++)
        g_ptr_array_add(open, connect_to(f->path));
    check(f, "GET", "/v1/status", "", 503, "64 connections to the API are open already");
    for (guint i = DRV_API_MAX_CONNECTIONS; i < 2 * DRV_API_MAX_CONNECTIONS; i++)
        g_ptr_array_add(open, connect_to(f->path));
    g_autofree char *beyond = ask(f, "GET", "/v1/status", "");
    g_assert_cmpstr(beyond, ==, "");
    g_ptr_array_set_size(open, 0);
    for (guint tries = 0;; tries++) { /* until the server has seen them go */
        g_autofree char *reply = ask(f, "GET", "/v1/status", "");
        if (g_str_has_prefix(reply, "HTTP/1.1 200 "))
            break;
        g_assert_cmpuint(tries, <, 1000);
    }
}

/* A watch, read line by line on the main loop. */
typedef struct {
    SoupSession *session;
    GDataInputStream *lines;
    guint status;
    char *line; /* the last; NULL at the end */
    gboolean done;
} Watch;

static void
on_watch(GObject *source, GAsyncResult *result, gpointer data)
{
    Watch *w = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GInputStream) in = soup_session_send_finish(SOUP_SESSION(source), result, &error);
    g_assert_no_error(error);
    w->lines = g_data_input_stream_new(in);
    w->done = TRUE;
}

static void
watch_open(Watch *w, Fixture *f, const char *path)
{
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(f->path);
    g_autofree char *uri = g_strconcat("http://localhost", path, NULL);
    g_autoptr(SoupMessage) msg = soup_message_new("GET", uri);
    *w = (Watch){.session = soup_session_new_with_options("remote-connectable", address, NULL)};
    soup_session_send_async(w->session, msg, G_PRIORITY_DEFAULT, NULL, on_watch, w);
    fake_wait(&w->done);
    w->status = soup_message_get_status(msg);
}

static void
on_line(GObject *source, GAsyncResult *result, gpointer data)
{
    Watch *w = data;
    w->line = g_data_input_stream_read_line_finish(w->lines, result, NULL, NULL);
    w->done = TRUE;
}

static const char *
watch_next(Watch *w)
{
    g_clear_pointer(&w->line, g_free);
    w->done = FALSE;
    g_data_input_stream_read_line_async(w->lines, G_PRIORITY_DEFAULT, NULL, on_line, w);
    fake_wait(&w->done);
    return w->line;
}

static void
watch_close(Watch *w)
{
    g_clear_object(&w->lines);
    soup_session_abort(w->session);
    g_clear_object(&w->session);
    g_clear_pointer(&w->line, g_free);
}

static void
assert_line(Watch *w, const char *contains)
{
    const char *line = watch_next(w);
    if (line == NULL || strstr(line, contains) == NULL)
        g_error("expected a line with \"%s\", got \"%s\"", contains, line != NULL ? line : "EOF");
}

/* Every state arrives, in order, also when several come at once; then the end. */
static void
test_watch(Fixture *f, gconstpointer data)
{
    Watch w;
    watch_open(&w, f, "/v1/jobs/j1/watch?interval_ms=10000");
    g_assert_cmpuint(w.status, ==, 200);
    assert_line(&w, "\"copying\"");
    fake_backend_patch(f->fake, "j1", "{\"state\":\"switchover\"}");
    assert_line(&w, "\"switchover\"");
    fake_backend_patch(f->fake, "j1", "{\"state\":\"committed\"}");
    fake_backend_patch(f->fake, "j1", "{\"state\":\"running\"}");
    fake_backend_patch(f->fake, "j1", "{\"state\":\"done\",\"final\":true}");
    assert_line(&w, "\"committed\"");
    assert_line(&w, "\"running\"");
    assert_line(&w, "\"done\"");
    g_assert_null(watch_next(&w));
    watch_close(&w);

    watch_open(&w, f, "/v1/jobs/j1/watch"); /* a final job: one line */
    assert_line(&w, "\"done\"");
    g_assert_null(watch_next(&w));
    watch_close(&w);
}

/* Without any change the job comes again and again; only the watched one does. */
static void
test_watch_interval(Fixture *f, gconstpointer data)
{
    Watch w;
    fake_backend_add(f->fake, JOB("j2", "queued", "false"));
    watch_open(&w, f, "/v1/jobs/j1/watch?interval_ms=50");
    for (guint i = 0; i < 3; i++)
        assert_line(&w, "\"j1\"");
    fake_backend_patch(f->fake, "j2", "{\"state\":\"preparing\"}");
    assert_line(&w, "\"j1\"");
    /* A job that can no longer be shown ends the watch, which says why. */
    fake_backend_refuse(f->fake, DRV_ERROR_IO, "the journal is gone");
    for (;;) {
        const char *line = watch_next(&w);
        g_assert_nonnull(line);
        if (strstr(line, "\"class\":\"io\",\"message\":\"the journal is gone\"") != NULL)
            break;
    }
    g_assert_null(watch_next(&w));
    watch_close(&w);
}

static void
test_many_watchers(Fixture *f, gconstpointer data)
{
    Watch w[DRV_API_MAX_WATCHERS + 1];
    for (guint i = 0; i < DRV_API_MAX_WATCHERS; i++)
        watch_open(&w[i], f, "/v1/jobs/j1/watch?interval_ms=50");
    check(f, "GET", "/v1/jobs/j1/watch", "", 503, "32 watchers are connected already");
    for (guint i = 0; i < DRV_API_MAX_WATCHERS; i++)
        watch_close(&w[i]);
    for (guint tries = 0;; tries++) { /* a watcher's end is seen when it is written to */
        Watch *last = &w[DRV_API_MAX_WATCHERS];
        watch_open(last, f, "/v1/jobs/j1/watch");
        guint status = last->status;
        watch_close(last);
        if (status == 200)
            break;
        g_assert_cmpuint(tries, <, 1000);
    }
}

/* Who does not read holds up nobody, and is not sent more than it can be forgiven. */
static void
test_slow_watcher(Fixture *f, gconstpointer data)
{
    g_autoptr(GSocketConnection) slow = connect_to(f->path);
    const char *request = "GET /v1/jobs/j1/watch HTTP/1.1\r\nHost: x\r\n\r\n";
    GIOStream *io = G_IO_STREAM(slow);
    g_assert_true(g_output_stream_write_all(g_io_stream_get_output_stream(io), request,
                                            strlen(request), NULL, NULL, NULL));
    Watch w;
    watch_open(&w, f, "/v1/jobs/j1/watch?interval_ms=10000");
    assert_line(&w, "\"copying\"");
    g_autofree char *padding = g_strnfill(8192, 'x');
    for (guint i = 0; i < 300; i++) {
        g_autofree char *patch =
            g_strdup_printf("{\"state\":\"copying\",\"n\":\"n%u.\",\"pad\":\"%s\"}", i, padding);
        g_autofree char *expected = g_strdup_printf("\"n%u.\"", i);
        fake_backend_patch(f->fake, "j1", patch);
        assert_line(&w, expected);
    }
    fake_backend_patch(f->fake, "j1", "{\"state\":\"done\",\"final\":true}");
    assert_line(&w, "\"done\"");
    watch_close(&w);
    /* When it does read, it finds fewer lines than there were changes, but the last one. */
    g_autoptr(GDataInputStream) lines = g_data_input_stream_new(g_io_stream_get_input_stream(io));
    Watch late = {.lines = lines};
    guint count = 0;
    gboolean saw_end = FALSE;
    while (!saw_end) {
        const char *line = watch_next(&late);
        g_assert_nonnull(line);
        count += strstr(line, "\"job\"") != NULL;
        saw_end = strstr(line, "\"done\"") != NULL;
    }
    g_assert_cmpuint(count, <, 300);
    g_free(late.line);
}

/* The server goes away under a watch: the connection ends, and nothing leaks. */
static void
test_stop(Fixture *f, gconstpointer data)
{
    Watch w;
    watch_open(&w, f, "/v1/jobs/j1/watch?interval_ms=50");
    assert_line(&w, "\"copying\"");
    drv_api_server_free(f->server);
    f->server = NULL;
    f->fake->server = NULL;
    while (watch_next(&w) != NULL)
        ;
    watch_close(&w);
}

#define ADD(name, func) g_test_add("/server/" name, Fixture, NULL, set_up, func, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("routes", test_routes);
    ADD("bad-requests", test_bad_requests);
    ADD("backend-errors", test_backend_errors);
    ADD("large-body", test_large_body);
    ADD("garbage", test_garbage);
    ADD("many-connections", test_many_connections);
    ADD("watch", test_watch);
    ADD("watch-interval", test_watch_interval);
    ADD("many-watchers", test_many_watchers);
    ADD("slow-watcher", test_slow_watcher);
    ADD("stop", test_stop);
    return g_test_run();
}
