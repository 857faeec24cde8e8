/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* There is no way back: each test is a process of its own. */
static gboolean
in_a_process(void)
{
    if (g_test_subprocess()) {
        g_autoptr(GError) error = NULL;
        g_assert_true(drv_sandbox_enter(&error));
        g_assert_no_error(error);
        return TRUE;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_passed();
    return FALSE;
}

#define REFUSED(CALL)                                                                              \
    G_STMT_START                                                                                   \
    {                                                                                              \
        errno = 0;                                                                                 \
        g_assert_cmpint((CALL), ==, -1);                                                           \
        g_assert_cmpint(errno, ==, EPERM);                                                         \
    }                                                                                              \
    G_STMT_END

static void
test_refused(void)
{
    if (!in_a_process())
        return;
    struct timespec now = {0};
    REFUSED(unshare(CLONE_NEWUSER));
    REFUSED(mount("none", "/", NULL, MS_REMOUNT, NULL));
    REFUSED(personality(ADDR_NO_RANDOMIZE));
    REFUSED(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL));
    REFUSED(syscall(SYS_bpf, 0, NULL, 0));
    REFUSED(syscall(SYS_clock_settime, CLOCK_REALTIME, &now));
    REFUSED(syscall(SYS_pidfd_getfd, -1, 0, 0));
    REFUSED(chroot("/"));
}

static gpointer
answer(gpointer data)
{
    return data;
}

/* What droverd lives by. */
static void
test_allowed(void)
{
    if (!in_a_process())
        return;
    char from[] = "from", to[sizeof from] = "";
    struct iovec local = {to, sizeof to}, remote = {from, sizeof from};
    g_assert_cmpint(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), ==, sizeof from);
    g_assert_cmpstr(to, ==, from);
    g_assert_true(g_thread_join(g_thread_new("one", answer, to)) == to);
    g_assert_cmpint(personality(0xffffffff), >=, 0);
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    errno = 0;
    g_assert_cmpint(syscall(SYS_clone3, NULL, 0), ==, -1);
    g_assert_cmpint(errno, ==, ENOSYS);
}

/* Children inherit it, and have no more than their parent. */
static void
test_children(void)
{
    if (!in_a_process())
        return;
    g_autofree char *out = NULL, *complaint = NULL;
    gint status;
    const char *argv[] = {"/bin/sh", "-c",
                          "grep -E '^(Seccomp|NoNewPrivs|CapBnd|CapEff):' /proc/self/status; "
                          "unshare -U true",
                          NULL};
    g_assert_true(
        g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, &out, &complaint, &status, NULL));
    g_assert_cmpint(WEXITSTATUS(status), !=, 0);
    g_assert_nonnull(strstr(complaint, "Operation not permitted"));
    g_assert_nonnull(strstr(out, "Seccomp:\t2\n"));
    g_assert_nonnull(strstr(out, "NoNewPrivs:\t1\n"));
    /* ... nor what is not listed: 21 is CAP_SYS_ADMIN. */
    const char *effective = strstr(out, "CapEff:\t"), *bound = strstr(out, "CapBnd:\t");
    g_assert_true(effective != NULL && bound != NULL);
    g_assert_cmpuint(g_ascii_strtoull(effective + 8, NULL, 16) & 1 << 21, ==, 0);
    if (geteuid() == 0)
        g_assert_cmpuint(g_ascii_strtoull(bound + 8, NULL, 16) & 1 << 21, ==, 0);
}

/* As everything is done by it, it is done once more without harm: under systemd's unit, say. */
static void
test_twice(void)
{
    if (!in_a_process())
        return;
    g_autoptr(GError) error = NULL;
    g_assert_true(drv_sandbox_enter(&error));
    g_assert_no_error(error);
    REFUSED(unshare(CLONE_NEWUSER));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/sandbox/refused", test_refused);
    g_test_add_func("/sandbox/allowed", test_allowed);
    g_test_add_func("/sandbox/children", test_children);
    g_test_add_func("/sandbox/twice", test_twice);
    return g_test_run();
}
