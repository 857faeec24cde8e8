/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/address.h"

#include <string.h>

#include "common/error.h"

static void
test_good(void)
{
    static const struct {
        const char *text, *host;
        guint16 port;
    } cases[] = {
        {"host2:7001", "host2", 7001},
        {"a.b-c.example:1", "a.b-c.example", 1},
        {"my_host:65535", "my_host", 65535},
        {"10.0.0.2:0", "10.0.0.2", 0},
        {"0.0.0.0:7001", "0.0.0.0", 7001},
        {"[::]:7001", "::", 7001},
        {"[fd00::2]:7001", "fd00::2", 7001},
        {"[::ffff:10.0.0.1]:7001", "::ffff:10.0.0.1", 7001},
        {"[fe80::1%eth0]:7001", "fe80::1%eth0", 7001},
        {"7host:7001", "7host", 7001},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *host = NULL;
        guint16 port = 1;
        drv_address_parse(cases[i].text, &host, &port, &error);
        g_assert_no_error(error);
        g_assert_cmpstr(host, ==, cases[i].host);
        g_assert_cmpuint(port, ==, cases[i].port);
        g_autofree char *again = drv_address_format(host, port);
        g_assert_cmpstr(again, ==, cases[i].text);
        g_assert_true(drv_address_parse(cases[i].text, NULL, NULL, NULL));
    }
}

static void
test_bad(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "the port is missing"},
        {"host2", "the port is missing"},
        {"[fd00::2]", "the port is missing"},
        {":7001", "the address is missing"},
        {"host2:", "must be a number from 0 to 65535"},
        {"host2:x", "must be a number from 0 to 65535"},
        {"host2:-1", "must be a number from 0 to 65535"},
        {"host2:+1", "must be a number from 0 to 65535"},
        {"host2: 1", "must be a number from 0 to 65535"},
        {"host2:65536", "must be a number from 0 to 65535"},
        {"host2:70 01", "must be a number from 0 to 65535"},
        {"fd00::2:7001", "needs brackets, as in [fd00::2]:7001"},
        {"::1", "needs brackets"},
        {"[fd00::2]7001", "the port is missing"},
        {"[fd00::2]x:7001", "must follow the ']'"},
        {"[fd00::2", "needs brackets"},
        {"[host2]:7001", "not an IPv6 address"},
        {"[10.0.0.2]:7001", "not an IPv6 address"},
        {"[]:7001", "not an IPv6 address"},
        {"[fe80::1%]:7001", "not an IPv6 address"},
        {"300.0.0.1:7001", "neither a host name nor an IPv4 address"},
        {"10.0.0:7001", "neither a host name nor an IPv4 address"},
        {"ho st:7001", "neither a host name nor an IPv4 address"},
        {"-host:7001", "neither a host name nor an IPv4 address"},
        {"a..b:7001", "neither a host name nor an IPv4 address"},
        {".a:7001", "neither a host name nor an IPv4 address"},
        {"tcp:7001\n", "must be a number"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        char *host = (char *)"untouched";
        guint16 port = 9;
        g_assert_false(drv_address_parse(cases[i].text, &host, &port, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);
        if (strstr(error->message, cases[i].says) == NULL)
            g_error("'%s' gave: %s", cases[i].text, error->message);
        g_assert_null(strchr(error->message, '\n'));
        g_assert_cmpstr(host, ==, "untouched");
        g_assert_cmpuint(port, ==, 9);
    }
}

static void
test_names(void)
{
    g_autofree char *longest = g_strnfill(253, 'a');
    g_autofree char *longer = g_strnfill(254, 'a');
    g_assert_true(drv_address_is_host_name(longest));
    g_assert_false(drv_address_is_host_name(longer));
    g_assert_false(drv_address_is_host_name(""));
    g_assert_false(drv_address_is_host_name("a."));
    g_assert_false(drv_address_is_host_name("a/b"));
    g_assert_true(drv_address_is_ip("fd00::2"));
    g_assert_true(drv_address_is_ip("10.0.0.1"));
    g_assert_false(drv_address_is_ip("[fd00::2]"));
    g_assert_false(drv_address_is_ip("host2"));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/address/good", test_good);
    g_test_add_func("/address/bad", test_bad);
    g_test_add_func("/address/names", test_names);
    return g_test_run();
}
