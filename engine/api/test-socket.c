/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/api/socket.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"

typedef struct {
    char *dir;
    char *path; /* of a socket in it */
} Place;

static void
set_up(Place *place, gconstpointer data)
{
    place->dir = g_dir_make_tmp("drover-XXXXXX", NULL);
    place->path = g_build_filename(place->dir, "api.sock", NULL);
}

static void
tear_down(Place *place, gconstpointer data)
{
    g_unlink(place->path);
    g_assert_cmpint(g_rmdir(place->dir), ==, 0); /* nothing else was left there */
    g_free(place->path);
    g_free(place->dir);
}

static void
assert_fails(const char *path, int code, const char *why)
{
    DrvApiSocket sock;
    g_autoptr(GError) error = NULL;
    g_assert_false(drv_api_socket_open(&sock, path, &error));
    g_assert_error(error, DRV_ERROR, code);
    if (strstr(error->message, why) == NULL)
        g_error("\"%s\" does not say \"%s\"", error->message, why);
    drv_api_socket_close(&sock);
}

static gboolean
can_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    gboolean ok = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return ok;
}

static void
test_life(Place *place, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    DrvApiSocket sock;
    mode_t old = umask(0); /* the most permissive: the mode must not depend on it */
    g_assert_true(drv_api_socket_open(&sock, place->path, &error));
    umask(old);
    g_assert_no_error(error);
    struct stat st;
    g_assert_cmpint(lstat(place->path, &st), ==, 0);
    g_assert_true(S_ISSOCK(st.st_mode));
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    g_assert_true(can_connect(place->path));

    /* Served: whoever comes second is told so, and the first is not harmed. */
    assert_fails(place->path, DRV_ERROR_STATE, "another process serves");
    g_assert_true(can_connect(place->path));

    drv_api_socket_close(&sock);
    g_assert_false(g_file_test(place->path, G_FILE_TEST_EXISTS));
    drv_api_socket_close(&sock);
}

/* A daemon with no time to answer is no dead one. */
static void
test_busy(Place *place, gconstpointer data)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_strlcpy(address.sun_path, place->path, sizeof address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof address), ==, 0);
    g_assert_cmpint(listen(fd, 0), ==, 0);
    int first = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(first, (struct sockaddr *)&address, sizeof address), ==, 0);
    /* The queue is full now. */
    assert_fails(place->path, DRV_ERROR_STATE, "another process serves");
    close(first);
    close(fd);
}

static void
test_stale(Place *place, gconstpointer data)
{
    pid_t pid = fork();
    if (pid == 0) {
        DrvApiSocket sock;
        _exit(drv_api_socket_open(&sock, place->path, NULL) ? 0 : 1); /* dies without closing */
    }
    int status;
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
    g_assert_true(g_file_test(place->path, G_FILE_TEST_EXISTS));
    g_assert_false(can_connect(place->path));

    g_autoptr(GError) error = NULL;
    DrvApiSocket sock;
    g_assert_true(drv_api_socket_open(&sock, place->path, &error));
    g_assert_no_error(error);
    g_assert_true(can_connect(place->path));
    drv_api_socket_close(&sock);
}

/* What another has put in its place meanwhile is not ours to remove. */
static void
test_replaced(Place *place, gconstpointer data)
{
    DrvApiSocket ours, theirs;
    g_assert_true(drv_api_socket_open(&ours, place->path, NULL));
    g_assert_cmpint(g_unlink(place->path), ==, 0);
    g_assert_true(drv_api_socket_open(&theirs, place->path, NULL));
    drv_api_socket_close(&ours);
    g_assert_true(can_connect(place->path));
    drv_api_socket_close(&theirs);
}

/* To a group, and to nobody else; and nothing that stands at the path instead. */
static void
test_shared(Place *place, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    DrvApiSocket sock;
    struct stat st;
    gid_t group = geteuid() == 0 ? 65534 : getegid();
    g_assert_true(drv_api_socket_open(&sock, place->path, &error));
    g_assert_true(drv_api_socket_share(&sock, group, &error));
    g_assert_no_error(error);
    g_assert_cmpint(lstat(place->path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0660);
    g_assert_cmpint(st.st_gid, ==, group);

    g_assert_cmpint(g_unlink(place->path), ==, 0);
    g_assert_true(g_file_set_contents(place->path, "precious", -1, NULL));
    g_assert_cmpint(chmod(place->path, 0600), ==, 0);
    g_assert_false(drv_api_socket_share(&sock, group, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_IO);
    g_assert_nonnull(strstr(error->message, "cannot be given to the group"));
    g_assert_cmpint(lstat(place->path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    drv_api_socket_close(&sock);
}

static void
test_not_a_socket(Place *place, gconstpointer data)
{
    g_assert_true(g_file_set_contents(place->path, "precious", -1, NULL));
    assert_fails(place->path, DRV_ERROR_USAGE, "exists and is not a socket");
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(place->path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "precious");

    g_autofree char *below = g_build_filename(place->path, "api.sock", NULL);
    assert_fails(below, DRV_ERROR_USAGE, "is not a directory");
}

static void
test_paths(Place *place, gconstpointer data)
{
    g_autofree char *missing = g_build_filename(place->dir, "no", "api.sock", NULL);
    assert_fails(missing, DRV_ERROR_USAGE, "does not exist: create it");
    assert_fails("", DRV_ERROR_USAGE, "is empty");
    g_autofree char *name = g_strnfill(108, 'x');
    assert_fails(name, DRV_ERROR_USAGE, "has 108 bytes");
    name[107] = '\0';
    g_autoptr(GError) error = NULL;
    g_assert_true(drv_api_socket_check_path(name, &error));
}

/* In a child, since a user is not changed back. */
static void
test_not_permitted(Place *place, gconstpointer data)
{
    if (geteuid() != 0) {
        g_test_skip("needs root to become somebody else");
        return;
    }
    static const struct {
        mode_t mode;
        const char *why;
    } cases[] = {{0755, "start droverd as a user who may write"}, {0700, "cannot be opened"}};
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_assert_cmpint(chmod(place->dir, cases[i].mode), ==, 0);
        pid_t pid = fork();
        if (pid == 0) {
            DrvApiSocket sock;
            g_autoptr(GError) error = NULL;
            gboolean ok = setuid(65534) == 0 && !drv_api_socket_open(&sock, place->path, &error) &&
                          error->code == DRV_ERROR_IO &&
                          strstr(error->message, cases[i].why) != NULL;
            _exit(ok ? 0 : 1);
        }
        int status;
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_cmpint(status, ==, 0);
    }
}

#define ADD(name, func) g_test_add("/socket/" name, Place, NULL, set_up, func, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("life", test_life);
    ADD("busy", test_busy);
    ADD("stale", test_stale);
    ADD("replaced", test_replaced);
    ADD("shared", test_shared);
    ADD("not-a-socket", test_not_a_socket);
    ADD("paths", test_paths);
    ADD("not-permitted", test_not_permitted);
    return g_test_run();
}
