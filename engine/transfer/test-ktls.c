/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/ktls.h"

#include "engine/transfer/test-pki.h"
#include "engine/transfer/test-seal.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOM ((gsize)65536)

/* What is tested: the keys that the kernel is told are those of the connection. A peer's OpenSSL
 * reads what is sealed with them, by the test as the kernel would, and by the kernel where it can.
 */

/* Two ends that have shaken hands in memory. */
typedef struct {
    TestPki *pki;
    DrvTls *tls;
    DrvTlsPipe pipe[2];
    guint8 bytes[2][ROOM];
    SSL *ssl[2]; /* client, server */
} Link;

static void
read_nothing(Link *link, guint end)
{
    guint8 byte;
    ERR_clear_error();
    int r = SSL_read(link->ssl[end], &byte, 1);
    g_assert_cmpint(SSL_get_error(link->ssl[end], r), ==, SSL_ERROR_WANT_READ);
}

static Link *
link_new(const char *suite, gboolean reveal)
{
    Link *link = g_new0(Link, 1);
    link->pki = test_pki_new();
    link->tls = drv_tls_new(test_pki_good(link->pki, "host"), NULL);
    if (reveal)
        drv_tls_reveal(link->tls);
    for (guint i = 0; i < 2; i++) {
        link->pipe[i].out = link->bytes[i];
        link->pipe[i].out_size = ROOM;
        link->ssl[i] =
            drv_tls_connection(link->tls, &link->pipe[i], i == 0 ? "localhost" : NULL, NULL);
    }
    g_assert_true(SSL_set_ciphersuites(link->ssl[0], suite));
    for (guint i = 0; i < 4; i++) {
        DrvTlsPipe *mine = &link->pipe[i % 2], *theirs = &link->pipe[1 - i % 2];
        mine->in = theirs->out;
        mine->in_len = theirs->out_len;
        SSL_do_handshake(link->ssl[i % 2]);
    }
    g_assert_cmpstr(SSL_get_cipher(link->ssl[0]), ==, suite);
    for (guint i = 0; i < 2; i++) {
        g_assert_true(SSL_is_init_finished(link->ssl[i]));
        read_nothing(link, i);
    }
    return link;
}

static void
link_free(Link *link)
{
    SSL_free(link->ssl[0]);
    SSL_free(link->ssl[1]);
    drv_tls_free(link->tls);
    test_pki_free(link->pki);
    g_free(link);
}

static gboolean
key_of(const Link *link, guint end, DrvKtlsKey *key)
{
    return drv_ktls_key(key, SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(link->ssl[end])),
                        link->pipe[end].secret, link->pipe[end].secret_len);
}

/* Gives 'end' bytes to read, as if its peer had sent them. */
static void
give(Link *link, guint end, const guint8 *bytes, gsize len)
{
    g_assert_cmpuint(link->pipe[end].in_pos, ==, link->pipe[end].in_len);
    link->pipe[end].in = bytes;
    link->pipe[end].in_pos = 0;
    link->pipe[end].in_len = len;
}

static void
test_records(gconstpointer suite)
{
    static const gsize lengths[] = {1, 40, DRV_TLS_RECORD, 3, 1000};
    g_autofree guint8 *plain = g_malloc(DRV_TLS_RECORD), *got = g_malloc(DRV_TLS_RECORD);
    g_autofree guint8 *record = g_malloc(DRV_TLS_RECORD + TEST_SEAL_OVERHEAD);
    Link *link = link_new(suite, TRUE);
    for (guint end = 0; end < 2; end++) {
        DrvKtlsKey key;
        g_assert_true(key_of(link, end, &key));
        g_assert_cmpuint(link->pipe[end].secret_used, ==, 0); /* so that record 0 is the next */
        for (guint number = 0; number < 300; number++) {      /* the number's second byte, too */
            gsize len = lengths[number % G_N_ELEMENTS(lengths)];
            memset(plain, (int)(number + end), len);
            give(link, 1 - end, record, test_seal(&key, number, plain, len, record));
            g_assert_cmpint(SSL_read(link->ssl[1 - end], got, (int)DRV_TLS_RECORD), ==, (int)len);
            g_assert_cmpmem(got, len, plain, len);
        }
    }
    link_free(link);
}

/* Each direction has a key of its own, and a number is good for one record: a mistake would show.
 */
static void
test_wrong_records(void)
{
    guint8 record[4 + TEST_SEAL_OVERHEAD], got[4];
    for (guint wrong = 0; wrong < 2; wrong++) {
        Link *link = link_new("TLS_AES_128_GCM_SHA256", TRUE);
        DrvKtlsKey key;
        g_assert_true(key_of(link, wrong == 0 ? 1 : 0, &key));
        give(link, 1, record,
             test_seal(&key, wrong == 1 ? 1 : 0, (const guint8 *)"data", 4, record));
        ERR_clear_error();
        g_assert_cmpint(SSL_read(link->ssl[1], got, sizeof got), <, 0);
        g_assert_true(drv_tls_is_unreadable());
        /* And the sender hears of it. */
        gsize before = link->pipe[0].in_len;
        give(link, 0, link->pipe[1].out + before, link->pipe[1].out_len - before);
        ERR_clear_error();
        g_assert_cmpint(SSL_read(link->ssl[0], got, sizeof got), <=, 0);
        g_assert_true(drv_tls_is_unreadable());
        link_free(link);
    }
}

/* That OpenSSL has sent something with the key is noticed: the kernel would begin with its number 0
 * once more. */
static void
test_used(void)
{
    for (guint end = 0; end < 2; end++) {
        Link *link = link_new("TLS_AES_128_GCM_SHA256", TRUE);
        g_assert_cmpint(SSL_write(link->ssl[end], "x", 1), ==, 1);
        g_assert_cmpuint(link->pipe[end].secret_used, ==, 1 + TEST_SEAL_OVERHEAD);
        link_free(link);
    }
}

/* A pipe that is mute takes what OpenSSL says, and keeps none: an answer to a change of keys here.
 */
static void
test_mute(void)
{
    guint8 got[4];
    Link *link = link_new("TLS_AES_128_GCM_SHA256", TRUE);
    gsize said = link->pipe[1].out_len, heard = link->pipe[0].out_len;
    link->pipe[1].mute = TRUE;
    g_assert_true(SSL_key_update(link->ssl[0], SSL_KEY_UPDATE_REQUESTED));
    g_assert_cmpint(SSL_write(link->ssl[0], "data", 4), ==, 4);
    give(link, 1, link->pipe[0].out + heard, link->pipe[0].out_len - heard);
    g_assert_cmpint(SSL_read(link->ssl[1], got, sizeof got), ==, 4);
    g_assert_cmpmem(got, 4, "data", 4);
    g_assert_cmpuint(link->pipe[1].out_len, ==, said);
    link_free(link);
}

static void
test_secrets(void)
{
    DrvKtlsKey key;
    guint8 secret[DRV_TLS_SECRET] = {0};
    /* None is kept without being asked for. */
    Link *link = link_new("TLS_AES_128_GCM_SHA256", FALSE);
    g_assert_cmpuint(link->pipe[0].secret_len + link->pipe[1].secret_len, ==, 0);
    g_assert_false(key_of(link, 0, &key));
    link_free(link);

    link = link_new("TLS_AES_256_GCM_SHA384", TRUE);
    g_assert_cmpuint(link->pipe[0].secret_len, ==, 48);
    g_assert_cmpint(memcmp(link->pipe[0].secret, link->pipe[1].secret, 48), !=, 0);
    g_assert_true(key_of(link, 0, &key));
    drv_tls_pipe_forget(&link->pipe[0]);
    g_assert_cmpmem(link->pipe[0].secret, 48, secret, 48);
    g_assert_false(key_of(link, 0, &key));
    link_free(link);

    static const guint8 zero[sizeof key];
    drv_ktls_key_clear(&key);
    g_assert_cmpmem(&key, sizeof key, zero, sizeof key);
    g_assert_false(drv_ktls_key(&key, 0x1304 /* CCM */, secret, 32));
    g_assert_false(drv_ktls_key(&key, 0x1301, secret, 48));
    g_assert_false(drv_ktls_key(&key, 0x1302, secret, 32));
}

static void
test_refused(void)
{
    DrvKtlsKey key;
    guint8 secret[32] = {0};
    g_assert_true(drv_ktls_key(&key, 0x1301, secret, sizeof secret));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_false(drv_ktls_send(fd, &key)); /* not connected */
    g_assert_cmpint(errno, !=, 0);
    close(fd);

    /* A socket of a kernel without goes on as it was. */
    int pair[2];
    char byte;
    test_tcp_pair(pair);
    key.info.version = 0;
    g_assert_false(drv_ktls_send(pair[0], &key));
    g_assert_cmpint(write(pair[0], "x", 1), ==, 1);
    g_assert_cmpint(read(pair[1], &byte, 1), ==, 1);
    g_assert_cmpint(byte, ==, 'x');
    close(pair[0]);
    close(pair[1]);
}

static void
read_from(Link *link, guint end, int fd, guint8 *wire, guint8 *got, gsize len)
{
    for (gsize have = 0; have < len;) {
        ERR_clear_error();
        int n = SSL_read(link->ssl[end], got + have, (int)(len - have));
        if (n > 0) {
            have += (gsize)n;
            continue;
        }
        g_assert_cmpint(SSL_get_error(link->ssl[end], n), ==, SSL_ERROR_WANT_READ);
        ssize_t r = read(fd, wire, ROOM);
        g_assert_cmpint(r, >, 0);
        give(link, end, wire, (gsize)r);
    }
}

/* The kernel's own records. */
static void
test_kernel(gconstpointer suite)
{
    if (!test_kernel_has_tls()) {
        g_test_skip("NOT TESTED: this kernel has no TLS (CONFIG_TLS, module 'tls')");
        return;
    }
    gsize len = 3 * DRV_TLS_RECORD + 7;
    g_autofree guint8 *plain = g_malloc(len), *got = g_malloc(len), *wire = g_malloc(ROOM);
    Link *link = link_new(suite, TRUE);
    for (guint end = 0; end < 2; end++) {
        DrvKtlsKey key;
        int fd[2];
        test_tcp_pair(fd);
        g_assert_true(key_of(link, end, &key));
        if (!drv_ktls_send(fd[0], &key))
            g_error("the kernel refuses the key: %s", g_strerror(errno));
        for (guint i = 0; i < 20; i++) {
            memset(plain, (int)(i + 1), len);
            g_assert_cmpint(write(fd[0], plain, len), ==, (gssize)len);
            read_from(link, 1 - end, fd[1], wire, got, len);
            g_assert_cmpmem(got, len, plain, len);
        }
        /* Last, as nothing follows an alert. */
        drv_ktls_alert(fd[0]);
        ssize_t r = read(fd[1], wire, ROOM);
        g_assert_cmpint(r, >, 0);
        give(link, 1 - end, wire, (gsize)r);
        ERR_clear_error();
        g_assert_cmpint(SSL_read(link->ssl[1 - end], got, 1), <=, 0);
        g_assert_cmpint(ERR_GET_REASON(ERR_peek_last_error()), ==,
                        SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
        g_assert_true(drv_tls_is_unreadable());
        close(fd[0]);
        close(fd[1]);
        if (end == 0) { /* an alert has ended it */
            link_free(link);
            link = link_new(suite, TRUE);
        }
    }
    link_free(link);
}

int
main(int argc, char **argv)
{
    static const char *const suites[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
                                         "TLS_CHACHA20_POLY1305_SHA256"};
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(suites); i++) {
        g_autofree char *records = g_strconcat("/ktls/records/", suites[i], NULL);
        g_autofree char *kernel = g_strconcat("/ktls/kernel/", suites[i], NULL);
        g_test_add_data_func(records, suites[i], test_records);
        g_test_add_data_func(kernel, suites[i], test_kernel);
    }
    g_test_add_func("/ktls/wrong-records", test_wrong_records);
    g_test_add_func("/ktls/used", test_used);
    g_test_add_func("/ktls/mute", test_mute);
    g_test_add_func("/ktls/secrets", test_secrets);
    g_test_add_func("/ktls/refused", test_refused);
    return g_test_run();
}
