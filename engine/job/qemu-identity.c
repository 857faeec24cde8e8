/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/qemu-identity.h"

#include "common/error.h"
#include "common/json.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MEMBER "qemu"
/* In /proc/PID/stat, counted from the state, which follows the name in parentheses. */
#define START_TIME_FIELD 19

/* Those of its /proc/PID/stat from the state on, so many at least; NULL: there is no such process.
 */
static char **
stat_fields(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *text = NULL;
    if (pid <= 0 || !g_file_get_contents(path, &text, NULL, NULL))
        return NULL;
    const char *rest = strrchr(text, ')');
    g_auto(GStrv) fields = rest != NULL ? g_strsplit(g_strchug((char *)rest + 1), " ", -1) : NULL;
    if (fields == NULL || g_strv_length(fields) <= START_TIME_FIELD)
        return NULL;
    return g_steal_pointer(&fields);
}

/* "PID@START", START in clock ticks since boot: a pid comes again, the two together do not. */
static char *
identify_process(pid_t pid)
{
    g_auto(GStrv) fields = stat_fields(pid);
    return fields != NULL ? g_strdup_printf("%d@%s", (int)pid, fields[START_TIME_FIELD]) : NULL;
}

static char *
identify(QmpClient *client)
{
    return identify_process(qmp_client_get_peer_pid(client));
}

gboolean
drv_qemu_is_stopped(JsonObject *detail)
{
    g_auto(GStrv) fields = stat_fields(atoi(drv_json_string(detail, MEMBER, "0")));
    return fields != NULL && (g_str_equal(fields[0], "T") || g_str_equal(fields[0], "t"));
}

int
drv_qemu_open(JsonObject *detail)
{
    const char *remembered = drv_json_string(detail, MEMBER, NULL);
    pid_t pid = remembered != NULL ? atoi(remembered) : 0;
    int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    /* Asked after it was opened: from here on the descriptor is that process or a dead one. */
    g_autofree char *identity = fd >= 0 ? identify_process(pid) : NULL;
    if (fd >= 0 && g_strcmp0(identity, remembered) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

void
drv_qemu_remember(JsonObject *detail, QmpClient *client)
{
    g_autofree char *identity = identify(client);
    if (identity != NULL)
        json_object_set_string_member(detail, MEMBER, identity);
}

gboolean
drv_qemu_is_remembered(JsonObject *detail, QmpClient *client, GError **error)
{
    const char *remembered = drv_json_string(detail, MEMBER, NULL);
    g_autofree char *identity = identify(client);
    if (remembered == NULL || identity == NULL || g_str_equal(remembered, identity))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "the job's QEMU (process %d) has ended, and its QMP socket is served by another "
                "one, which is left alone",
                atoi(remembered));
    return FALSE;
}
