/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* What a job's disks are called in both QEMUs: the export at the destination, the node and the
 * mirror at the source. Made from the job's id, so that a restarted daemon finds them again. */
static inline char *
drv_live_disk_id(const char *job, guint index)
{
    return g_strdup_printf("drover-%s-%u", job, index);
}

/* At the source ours, which QEMU's NBD clients connect to; at the destination QEMU's, that we
 * connect to: of drv_services_socket_path(). */
#define DRV_LIVE_DISK_SOCKET "nbd"
