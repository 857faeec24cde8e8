/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "numa/topology.h"

#include <sys/socket.h>

/* Which node the network card is on that a connection uses: by the interface that has the local
 * address. -1: not known, as for loopback. Both take some system calls. */

/* Of a connected socket. */
gint drv_nic_node_of(const DrvTopology *topology, int fd);
/* Of a connection that would be made to 'address': nothing is sent. */
gint drv_nic_node_to(const DrvTopology *topology, const struct sockaddr *address, socklen_t len);
