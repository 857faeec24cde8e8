/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/nic.h"

#include <ifaddrs.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

static gboolean
is_same(const struct sockaddr *a, const struct sockaddr *b)
{
    if (b == NULL || a->sa_family != b->sa_family)
        return FALSE;
    if (a->sa_family == AF_INET)
        return memcmp(&((const struct sockaddr_in *)a)->sin_addr,
                      &((const struct sockaddr_in *)b)->sin_addr, sizeof(struct in_addr)) == 0;
    return a->sa_family == AF_INET6 &&
           memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)b)->sin6_addr, sizeof(struct in6_addr)) == 0;
}

/* A socket that listens on all of IPv6 has IPv4's addresses in it, too. */
static void
unmap(struct sockaddr_storage *address)
{
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
    if (address->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
        return;
    struct sockaddr_in four = {.sin_family = AF_INET};
    memcpy(&four.sin_addr, &six->sin6_addr.s6_addr[12], sizeof four.sin_addr);
    memcpy(address, &four, sizeof four);
}

gint
drv_nic_node_of(const DrvTopology *topology, int fd)
{
    struct sockaddr_storage local;
    socklen_t len = sizeof local;
    struct ifaddrs *all;
    gint node = -1;
    if (getsockname(fd, (struct sockaddr *)&local, &len) != 0 || getifaddrs(&all) != 0)
        return -1;
    unmap(&local);
    for (struct ifaddrs *i = all; i != NULL && node < 0; i = i->ifa_next)
        if (is_same((struct sockaddr *)&local, i->ifa_addr))
            node = drv_topology_nic_node(topology, i->ifa_name);
    freeifaddrs(all);
    return node;
}

gint
drv_nic_node_to(const DrvTopology *topology, const struct sockaddr *address, socklen_t len)
{
    int fd = socket(address->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    gint node = -1;
    if (fd < 0)
        return -1;
    if (connect(fd, address, len) == 0) /* of datagrams: it looks up the way, and no more */
        node = drv_nic_node_of(topology, fd);
    close(fd);
    return node;
}
