/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/nic.h"

#include "numa/test-host.h"

#include <arpa/inet.h>
#include <unistd.h>

/* A host on which loopback, the one interface that every machine has, is a card on node 1. */
static DrvTopology *
host_with_card(void)
{
    const TestHost host = {.nodes = {{"0", 1000, 500}, {"1", 1000, 500}}, .nic = 1};
    DrvTopology *topology = test_host_topology(&host);
    DrvNic *nic = &g_array_index(topology->nics, DrvNic, 0);
    g_free(nic->name);
    nic->name = g_strdup("lo");
    return topology;
}

static struct sockaddr_in
loopback(void)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void
test_to(void)
{
    g_autoptr(DrvTopology) topology = host_with_card();
    struct sockaddr_in address = loopback();
    struct sockaddr nowhere = {.sa_family = AF_APPLETALK};
    g_assert_cmpint(drv_nic_node_to(topology, (struct sockaddr *)&address, sizeof address), ==, 1);
    g_assert_cmpint(drv_nic_node_to(topology, &nowhere, sizeof nowhere), ==, -1);
    g_autoptr(DrvTopology) here = drv_topology_read(NULL);
    g_assert_cmpint(drv_nic_node_to(here, (struct sockaddr *)&address, sizeof address), ==, -1);
}

/* A socket of IPv6 that serves IPv4. */
static void
test_mapped(void)
{
    g_autoptr(DrvTopology) topology = host_with_card();
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = htons(9)};
    g_assert_cmpint(inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr), ==, 1);
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&mapped, sizeof mapped) != 0)
        g_test_skip("there is no IPv6 here");
    else
        g_assert_cmpint(drv_nic_node_of(topology, fd), ==, 1);
    if (fd >= 0)
        close(fd);
}

static void
test_no_socket(void)
{
    g_autoptr(DrvTopology) topology = host_with_card();
    g_assert_cmpint(drv_nic_node_of(topology, -1), ==, -1);
    int fd[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), ==, 0);
    g_assert_cmpint(drv_nic_node_of(topology, fd[0]), ==, -1);
    close(fd[0]);
    close(fd[1]);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nic/to", test_to);
    g_test_add_func("/nic/mapped", test_mapped);
    g_test_add_func("/nic/no-socket", test_no_socket);
    return g_test_run();
}
