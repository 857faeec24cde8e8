/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cursor.h"
#include "engine/channel/nbd-requests.h"

/* What a client says, put together here. */
typedef struct {
    guint8 bytes[4096];
    DrvCursor out;
} Client;

static void
begin(Client *client)
{
    client->out = drv_cursor_writer(client->bytes, sizeof client->bytes);
}

static void
data(Client *client, gsize len)
{
    while (len-- > 0)
        drv_cursor_put_u8(&client->out, 0x25);
}

static void
request(Client *client, guint16 type, guint32 length)
{
    drv_cursor_put_u32(&client->out, 0x25609513);
    drv_cursor_put_u16(&client->out, 1);
    drv_cursor_put_u16(&client->out, type);
    drv_cursor_put_u64(&client->out, 77);
    drv_cursor_put_u64(&client->out, (guint64)1 << 40);
    drv_cursor_put_u32(&client->out, length);
}

static void
extended(Client *client, guint16 flags, guint16 type, guint64 length)
{
    drv_cursor_put_u32(&client->out, 0x21e41c71);
    drv_cursor_put_u16(&client->out, flags);
    drv_cursor_put_u16(&client->out, type);
    drv_cursor_put_u64(&client->out, 77);
    drv_cursor_put_u64(&client->out, 0);
    drv_cursor_put_u64(&client->out, length);
}

/* In pieces of 'piece' bytes. */
static DrvNbdRequests
feed(Client *client, gsize piece)
{
    DrvNbdRequests requests;
    g_assert_true(drv_cursor_ok(&client->out));
    drv_nbd_requests_init(&requests);
    for (gsize at = 0; at < client->out.pos; at += piece)
        drv_nbd_requests_feed(&requests, client->bytes + at, MIN(piece, client->out.pos - at));
    return requests;
}

/* However it is cut. */
static void
test_counts(void)
{
    Client client;
    begin(&client);
    request(&client, 1, 1000);
    data(&client, 1000);
    request(&client, 0, 4096);
    request(&client, 6, 1 << 30);
    request(&client, 6, G_MAXUINT32);
    request(&client, 4, 12345);
    request(&client, 3, 0);
    request(&client, 1, 0);
    extended(&client, 0, 6, (guint64)5 << 32);
    extended(&client, 0x20, 1, 50);
    data(&client, 50);
    extended(&client, 0x20, 7, 12);
    data(&client, 12);
    extended(&client, 0, 0, 4096);
    request(&client, 1, 500);
    data(&client, 100); /* the rest has not come yet */
    static const gsize pieces[] = {1, 3, 27, 28, 29, 1000, 4096};
    for (guint i = 0; i < G_N_ELEMENTS(pieces); i++) {
        DrvNbdRequests seen = feed(&client, pieces[i]);
        g_assert_false(seen.lost);
        g_assert_cmpuint(seen.data_bytes, ==, 1150);
        g_assert_cmpuint(seen.zero_bytes, ==,
                         (1u << 30) + (guint64)G_MAXUINT32 + ((guint64)5 << 32));
        g_assert_cmpuint(seen.requests, ==, 12);
    }
}

static void
assert_lost(Client *client)
{
    guint64 before = feed(client, 5).requests;
    request(client, 1, 4);
    data(client, 4);
    DrvNbdRequests seen = feed(client, 5);
    g_assert_true(seen.lost);
    g_assert_cmpuint(seen.requests, ==, before);
    g_assert_cmpuint(seen.data_bytes + seen.zero_bytes, ==, 0);
}

/* It stops counting, and nothing else. */
static void
test_lost(void)
{
    Client client;
    begin(&client);
    drv_cursor_put_u32(&client.out, 0x21e41c72);
    assert_lost(&client);
    begin(&client);
    extended(&client, 0, 6, (guint64)1 << 63);
    assert_lost(&client);
    begin(&client);
    extended(&client, 0x20, 7, 65 << 20);
    assert_lost(&client);
    begin(&client);
    request(&client, 1, 65 << 20);
    assert_lost(&client);
}

/* Any bytes: within its bounds, which the sanitizers watch, and never more than was fed. */
static void
test_garbage(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);
    for (guint run = 0; run < 2000; run++) {
        Client client;
        begin(&client);
        for (guint i = 0; i < 20; i++) {
            if (g_rand_boolean(rand))
                request(&client, (guint16)g_rand_int_range(rand, 0, 8),
                        (guint32)g_rand_int_range(rand, 0, 60));
            else
                extended(&client, 0x20, (guint16)g_rand_int_range(rand, 0, 8),
                         (guint64)g_rand_int_range(rand, 0, 60));
        }
        for (guint i = 0; i < 3; i++)
            client.bytes[g_rand_int_range(rand, 0, (gint32)client.out.pos)] =
                (guint8)g_rand_int(rand);
        DrvNbdRequests seen = feed(&client, (gsize)g_rand_int_range(rand, 1, 100));
        g_assert_cmpuint(seen.have, <=, sizeof seen.header);
        g_assert_cmpuint(seen.data_bytes, <=, client.out.pos);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd/counts", test_counts);
    g_test_add_func("/nbd/lost", test_lost);
    g_test_add_func("/nbd/garbage", test_garbage);
    return g_test_run();
}
