/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/sandbox.h"

#include "common/error.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * A list of what is refused, and not of what is allowed: droverd starts qemu-img, qemu-nbd and the
 * fence command, which inherit the filter for good, and nobody can say which calls some site's
 * script makes. Refused is what changes the kernel, the host's mounts, clock and accounts, and what
 * breaks out of a process: with EPERM, which the kernel logs, and nothing is killed for it.
 *
 * Not on the list, as they are needed: process_vm_readv and _writev (direct mode), move_pages,
 * userfaultfd, pidfd_open and pidfd_send_signal, io_uring.
 *
 * The unit of systemd refuses the same (dist/droverd.service; a test compares), for a droverd whose
 * own filter is switched off.
 */
static const char *const refused[] = {
    /* the kernel */
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "bpf",
    "perf_event_open", "reboot", "syslog", "lookup_dcookie",
    /* mounts and swap */
    "mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick",
    "move_mount", "open_tree", "mount_setattr", "swapon", "swapoff",
    /* files behind the backs of mounts and folders, quotas, accounts */
    "open_by_handle_at", "fanotify_init", "quotactl", "quotactl_fd", "acct", "nfsservctl",
    /* the clock */
    "settimeofday", "clock_settime", "adjtimex", "clock_adjtime",
    /* other processes */
    "pidfd_getfd", "kcmp", "process_madvise",
#if !defined(__SANITIZE_ADDRESS__) /* which looks for leaks by it */
    "ptrace",
#endif
    /* keys */
    "add_key", "request_key", "keyctl",
    /* namespaces, and the host's name */
    "unshare", "setns", "sethostname", "setdomainname", "vhangup",
    /* ports, and other machines' programs */
    "iopl", "ioperm", "modify_ldt", "vm86", "vm86old", "uselib", "ustat", "sysfs", NULL};

/* What docs/security.md lists; and that locked memory is not counted, which the unit gives by
 * LimitMEMLOCK. */
static const guint kept[] = {
    CAP_SYS_PTRACE, CAP_CHECKPOINT_RESTORE, CAP_DAC_OVERRIDE, CAP_CHOWN,           CAP_FOWNER,
    CAP_KILL,       CAP_NET_ADMIN,          CAP_IPC_LOCK,     CAP_NET_BIND_SERVICE};

const char *const *
drv_sandbox_refused(void)
{
    return refused;
}

static gboolean
fail(GError **error, const char *what, int err)
{
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s: %s", what, g_strerror(err));
    return FALSE;
}

/* --- capabilities --- */

static guint64
kept_mask(void)
{
    guint64 mask = 0;
    for (guint i = 0; i < G_N_ELEMENTS(kept); i++)
        mask |= G_GUINT64_CONSTANT(1) << kept[i];
    return mask;
}

static gboolean
drop_capabilities(GError **error)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    guint64 mask = kept_mask();
    if (syscall(SYS_capget, &header, data) != 0)
        return fail(error, "its capabilities cannot be read", errno);
    gboolean may_bound = (data[0].effective & 1u << CAP_SETPCAP) != 0;
    for (guint cap = 0; may_bound && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if ((mask >> cap & 1) == 0 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0)
            return fail(error, "a capability cannot be given up", errno);
    for (guint i = 0; i < G_N_ELEMENTS(data); i++) {
        data[i].permitted &= (guint32)(mask >> 32 * i);
        data[i].effective &= data[i].permitted;
        data[i].inheritable &= data[i].permitted;
    }
    return syscall(SYS_capset, &header, data) == 0 ||
           fail(error, "its capabilities cannot be given up", errno);
}

/* --- system calls --- */

/* A name that this libseccomp or this machine does not know is none that could be called. */
static int
refuse_listed(scmp_filter_ctx filter)
{
    int err = 0;
    for (guint i = 0; refused[i] != NULL && err == 0; i++) {
        int call = seccomp_syscall_resolve_name(refused[i]);
        if (call >= 0)
            err = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), call, 0);
    }
    return err;
}

/* By their flags, as threads and processes are made by the same call. */
static int
refuse_namespaces(scmp_filter_ctx filter)
{
    static const scmp_datum_t flags[] = {CLONE_NEWNS,   CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
                                         CLONE_NEWUSER, CLONE_NEWPID,    CLONE_NEWNET};
    int err = 0;
    for (guint i = 0; i < G_N_ELEMENTS(flags) && err == 0; i++)
        err = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                               SCMP_A0(SCMP_CMP_MASKED_EQ, flags[i], flags[i]));
    /* 0xffffffff asks for the one there is. */
    if (err == 0)
        err = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(personality), 1,
                               SCMP_A0(SCMP_CMP_NE, 0xffffffff));
    return err;
}

/* Its flags are in memory, where a filter cannot look; without it the C library calls clone. */
static int
hide_clone3(scmp_filter_ctx filter)
{
    int call = seccomp_syscall_resolve_name("clone3");
    return call >= 0 ? seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), call, 0) : 0;
}

/* 'log': the kernel logs what it refuses. Programs for other machines than this one, by whose
 * numbers everything could be called, are refused everything. */
static int
load(gboolean log, int (*first)(scmp_filter_ctx), int (*second)(scmp_filter_ctx))
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    if (filter == NULL)
        return -ENOMEM;
    int err = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(EPERM));
    if (err == 0 && log)
        err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1);
    if (err == 0)
        err = first(filter);
    if (err == 0 && second != NULL)
        err = second(filter);
    if (err == 0)
        err = seccomp_load(filter); /* with 'no new privileges' */
    seccomp_release(filter);
    return err;
}

gboolean
drv_sandbox_enter(GError **error)
{
    if (!drop_capabilities(error))
        return FALSE;
    /* Not in one filter: every thread that begins would be logged. */
    int err = load(FALSE, hide_clone3, NULL);
    if (err == 0)
        err = load(TRUE, refuse_listed, refuse_namespaces);
    return err == 0 || fail(error, "system calls cannot be refused", -err);
}
