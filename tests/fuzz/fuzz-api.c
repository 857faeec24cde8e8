/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What comes over one connection to the API's socket, to its last byte: droverd's own server with
 * libsoup in it, the routes, a daemon with no engine behind them, and what reads the specifications
 * of migrations and copies. A connection costs little beside what the sanitizers cost, so nothing
 * of it is left out. All that it answers must be HTTP, and JSON where it says so.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/api/fake-backend.h"
#include "engine/copy/spec.h"
#include "engine/image/convert.h"
#include "engine/job/spec.h"
#include "tests/fuzz/entry.h"

#define JOB                                                                                        \
    "{\"job\":\"j1\",\"kind\":\"migrate\",\"state\":\"copying\",\"final\":false,"                  \
    "\"vm\":\"web1\",\"error\":null}"

typedef struct {
    DrvApiBackend ops;
    FakeBackend *fake;
    DrvApiServer *server;
    struct sockaddr_un address;
} Daemon;

/* libsoup 3.2 forgets the path of a request whose head it cannot read to its end. It is not ours to
 * mend, and a few bytes: who may talk to this socket may do as he likes with the guests. To know
 * that leak from others takes whole stacks. */
const char *__asan_default_options(void);
const char *__lsan_default_options(void);
const char *__lsan_default_suppressions(void);

const char *
__asan_default_options(void)
{
    return "fast_unwind_on_malloc=0:malloc_context_size=12";
}

const char *
__lsan_default_options(void)
{
    return "print_suppressions=0";
}

const char *
__lsan_default_suppressions(void)
{
    return "leak:soup_headers_parse_request\n";
}

static char *
migrate(gpointer self, JsonObject *object, GError **error)
{
    g_autoptr(DrvJobSpec) spec = drv_job_spec_from_json(object, error);
    if (spec == NULL)
        return NULL;
    g_autofree char *text = drv_job_spec_to_text(spec);
    g_autoptr(DrvJobSpec) same = drv_job_spec_parse(text, NULL);
    g_assert(same != NULL && strcmp(same->qmp, spec->qmp) == 0);
    return fake_backend_ops.migrate(self, object, error);
}

static char *
copy(gpointer self, JsonObject *object, GError **error)
{
    g_autoptr(DrvCopySpec) spec = drv_copy_spec_from_json(object, error);
    return spec != NULL ? fake_backend_ops.copy(self, object, error) : NULL;
}

/* Stands in for convert.c, which knows the formats and needs all that handles images. */
gboolean
drv_convert_check(const char *format, const char *dest_format, const char *options,
                  gboolean compress, GError **error)
{
    return TRUE;
}

/* One for all inputs: between them it is set back to what it was. */
static Daemon *
daemon_get(void)
{
    static Daemon daemon;
    g_autoptr(GError) error = NULL;
    if (daemon.server == NULL) {
        g_autofree char *dir = g_dir_make_tmp("drover-fuzz-XXXXXX", NULL);
        g_autofree char *path = g_build_filename(dir, "api.sock", NULL);
        g_log_set_always_fatal(G_LOG_LEVEL_CRITICAL | G_LOG_LEVEL_WARNING);
        daemon.ops = fake_backend_ops;
        daemon.ops.migrate = migrate;
        daemon.ops.copy = copy;
        daemon.fake = fake_backend_new();
        daemon.server = drv_api_server_new(path, &daemon.ops, daemon.fake, &error);
        g_assert_no_error(error);
        daemon.address.sun_family = AF_UNIX;
        g_strlcpy(daemon.address.sun_path, path, sizeof daemon.address.sun_path);
        fake_backend_add(daemon.fake, JOB);
    }
    g_ptr_array_set_size(daemon.fake->jobs, 1);
    return &daemon;
}

/* Whatever can be done without waiting is done, and what was answered is read. */
static void
settle(int fd, GByteArray *answers)
{
    guint8 piece[4096];
    gssize n = 0;
    do {
        while (g_main_context_iteration(NULL, FALSE))
            continue;
        n = fd >= 0 ? recv(fd, piece, sizeof piece, MSG_DONTWAIT) : 0;
        if (n > 0)
            g_byte_array_append(answers, piece, (guint)n);
    } while (n > 0);
}

static void
say(int fd, const guint8 *data, gsize size, GByteArray *answers)
{
    for (gsize done = 0; done < size;) {
        gssize n = send(fd, data + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return; /* it has hung up */
        done += n > 0 ? (gsize)n : 0;
        settle(fd, answers);
    }
    shutdown(fd, SHUT_WR);
    settle(fd, answers);
}

static gboolean
is_answer(const char *text)
{
    return g_str_has_prefix(text, "HTTP/1.");
}

/* Gives where the next one is, NULL where that cannot be told: the answer has no length. */
static const char *
see_answer(const char *text, const char *end)
{
    const char *body = strstr(text, "\r\n\r\n");
    g_assert(is_answer(text) && body != NULL);
    g_autofree char *head = g_strndup(text, (gsize)(body - text));
    const char *length = strstr(head, "\r\nContent-Length: ");
    body += 4;
    /* A refusal is the daemon's, but none of what a client sends makes it fail. */
    g_assert(strncmp(head + 9, "500", 3) != 0);
    g_assert(strstr(head, " 503 ") == NULL); /* all earlier connections are gone */
    if (length == NULL)
        return NULL;
    gsize len = g_ascii_strtoull(length + 18, NULL, 10);
    if (len == 0 || body == end || is_answer(body)) /* to HEAD */
        return body;
    if (len > (gsize)(end - body))
        return NULL;
    if (strstr(head, "application/json") != NULL) {
        g_autoptr(JsonObject) object = drv_json_parse_object(body, len, NULL);
        g_assert(object != NULL);
    }
    return body + len;
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    Daemon *daemon = daemon_get();
    g_autoptr(GByteArray) answers = g_byte_array_new();
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert(connect(fd, (struct sockaddr *)&daemon->address, sizeof daemon->address) == 0);
    say(fd, data, size, answers);
    close(fd);
    settle(-1, NULL);
    g_byte_array_append(answers, (const guint8 *)"", 1);
    const char *text = (const char *)answers->data, *end = text + answers->len - 1;
    while (text != NULL && text < end)
        text = see_answer(text, end);
    return 0;
}
