/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/pages.h"

#include "common/error.h"

#include <errno.h>
#include <numaif.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

/* Pages that are asked for in one call. */
#define WINDOW 64u
/* Linux 5.15; the header of libnuma 2.0.16 has it not. */
#ifndef MPOL_PREFERRED_MANY
#define MPOL_PREFERRED_MANY 5
#endif

/* --- where pages are --- */

static gboolean
fail(pid_t pid, int err, GError **error)
{
    if (err == EPERM || err == EACCES)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "droverd may not look into process %d: give it CAP_SYS_PTRACE, or run it as "
                    "the same user",
                    (int)pid);
    else if (err == ESRCH)
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "process %d has ended", (int)pid);
    else
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "the kernel does not tell where memory is (move_pages: %s)", g_strerror(err));
    return FALSE;
}

gboolean
drv_residency_nodes(pid_t pid, const guint64 *addresses, guint n, gint *nodes, GError **error)
{
    void *pages[WINDOW];
    g_return_val_if_fail(n <= WINDOW, FALSE);
    for (guint i = 0; i < n; i++)
        pages[i] = (void *)(guintptr)addresses[i];
    return n == 0 || move_pages(pid, n, pages, NULL, nodes, 0) == 0 || fail(pid, errno, error);
}

gboolean
drv_residency_sample(pid_t pid, guint64 start, guint64 len, guint samples, DrvResidency *residency,
                     GError **error)
{
    guint64 page = (guint64)sysconf(_SC_PAGESIZE), total = len / page;
    guint64 wanted = MIN(total, samples), addresses[WINDOW];
    gint nodes[WINDOW];
    for (guint64 done = 0; done < wanted;) {
        guint n = (guint)MIN(wanted - done, WINDOW);
        for (guint i = 0; i < n; i++) /* the product stays below 2^52 pages times 2^32 samples */
            addresses[i] = start + (guint64)((unsigned __int128)(done + i) * total / wanted) * page;
        if (!drv_residency_nodes(pid, addresses, n, nodes, error))
            return FALSE;
        for (guint i = 0; i < n; i++) {
            gboolean present = nodes[i] >= 0 && nodes[i] < (gint)DRV_NODES_MAX;
            residency->present += present;
            residency->absent += !present;
            if (present)
                residency->pages[nodes[i]]++;
        }
        done += n;
    }
    return TRUE;
}

gint
drv_residency_main(const DrvResidency *residency)
{
    gint best = -1;
    for (guint node = 0; node < DRV_NODES_MAX; node++)
        if (residency->pages[node] > (best >= 0 ? residency->pages[best] : 0))
            best = (gint)node;
    return best;
}

/* --- policies --- */

const char *
drv_policy_name(DrvPolicyMode mode)
{
    static const char *const names[] = {"default", "preferred", "bind", "interleave"};
    return names[mode];
}

/* The kernel's words for them, the longer of two first. */
static const struct {
    const char *word;
    DrvPolicyMode mode;
} words[] = {
    {"default", DRV_POLICY_DEFAULT},
    {"local", DRV_POLICY_DEFAULT},
    {"prefer (many)", DRV_POLICY_PREFERRED},
    {"prefer", DRV_POLICY_PREFERRED},
    {"bind", DRV_POLICY_BIND},
    {"interleave", DRV_POLICY_INTERLEAVE},
    {"weighted interleave", DRV_POLICY_INTERLEAVE},
};

/* "bind=static:0-1 ..." */
static gboolean
parse_policy(const char *text, DrvPolicy *policy)
{
    *policy = (DrvPolicy){DRV_POLICY_DEFAULT, 0};
    for (guint i = 0; i < G_N_ELEMENTS(words); i++) {
        if (!g_str_has_prefix(text, words[i].word))
            continue;
        const char *at = text + strlen(words[i].word);
        if (*at == '=')
            at += strcspn(at, ": \n");
        if (words[i].mode == DRV_POLICY_DEFAULT)
            return TRUE;
        if (*at != ':')
            return FALSE;
        g_autofree char *list = g_strndup(at + 1, strcspn(at + 1, " \n"));
        policy->mode = words[i].mode;
        return drv_nodes_parse(list, &policy->nodes) && policy->nodes != 0;
    }
    return FALSE;
}

/* "7f0c2c000000 bind:1 anon=512 dirty=512 active=0 N1=512 kernelpagesize_kB=4" */
gboolean
drv_numa_map_parse(const char *line, DrvNumaMap *map)
{
    char *end;
    *map = (DrvNumaMap){.start = g_ascii_strtoull(line, &end, 16), .page_size = 4096};
    if (end == line || *end != ' ' || !parse_policy(end + 1, &map->policy))
        return FALSE;
    const char *size = strstr(end, " kernelpagesize_kB=");
    if (size != NULL)
        map->page_size = g_ascii_strtoull(strchr(size, '=') + 1, NULL, 10) * 1024;
    const char *huge = strstr(end, " huge");
    map->huge = huge != NULL && strchr(" \n", huge[strlen(" huge")]) != NULL; /* or its end */
    return map->page_size > 0;
}

/* --- our own --- */

int
drv_memory_prefer(void *address, gsize len, gint node)
{
    unsigned long mask = (unsigned long)DRV_NODE_BIT(node);
    return mbind(address, len, MPOL_PREFERRED, &mask, DRV_NODES_MAX + 1, 0) == 0 ? 0 : errno;
}

int
drv_thread_prefer(const DrvPolicy *policy)
{
    unsigned long mask = (unsigned long)policy->nodes;
    int mode = policy->mode == DRV_POLICY_INTERLEAVE     ? MPOL_INTERLEAVE
               : __builtin_popcountll(policy->nodes) > 1 ? MPOL_PREFERRED_MANY
                                                         : MPOL_PREFERRED;
    if (policy->mode == DRV_POLICY_DEFAULT || mask == 0)
        return set_mempolicy(MPOL_DEFAULT, NULL, 0) == 0 ? 0 : errno;
    if (set_mempolicy(mode, &mask, DRV_NODES_MAX + 1) == 0)
        return 0;
    if (errno != EINVAL || mode != MPOL_PREFERRED_MANY)
        return errno;
    mask &= ~mask + 1; /* an older kernel prefers one only */
    return set_mempolicy(MPOL_PREFERRED, &mask, DRV_NODES_MAX + 1) == 0 ? 0 : errno;
}

int
drv_thread_pin(pid_t tid, const DrvCpus *cpus)
{
    G_STATIC_ASSERT(sizeof(DrvCpus) % sizeof(cpu_set_t) == 0);
    return sched_setaffinity(tid, sizeof *cpus, (const cpu_set_t *)cpus->bits) == 0 ? 0 : errno;
}

gboolean
drv_thread_cpus(pid_t tid, DrvCpus *cpus)
{
    *cpus = (DrvCpus){0};
    return sched_getaffinity(tid, sizeof *cpus, (cpu_set_t *)cpus->bits) == 0;
}

gint
drv_thread_node(void)
{
    unsigned cpu, node;
    return getcpu(&cpu, &node) == 0 && node < DRV_NODES_MAX ? (gint)node : -1;
}
