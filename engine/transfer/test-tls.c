/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/tls.h"

#include "common/error.h"
#include "engine/transfer/test-pki.h"

#include <glib/gstdio.h>
#include <openssl/err.h>
#include <string.h>

struct CertName {
    int type; /* of ASN.1 */
    const char *bytes;
    int len;
};

G_DEFINE_AUTOPTR_CLEANUP_FUNC(X509_NAME, X509_NAME_free)

#define ROOM ((gsize)65536)
#define HOUR 3600

/* Two ends of a connection in memory. */
typedef struct {
    DrvTlsPipe pipe[2];
    guint8 bytes[2][ROOM]; /* what an end has said */
    SSL *ssl[2];           /* client, server */
    gboolean done[2];
    GError *error[2];
    DrvTls *own[2]; /* made for this link; NULL when the test has its own */
} Link;

static void
link_init(Link *link, DrvTls *client, DrvTls *server, const char *host)
{
    g_autoptr(GError) error = NULL;
    memset(link, 0, sizeof *link);
    for (guint i = 0; i < 2; i++) {
        link->pipe[i].out = link->bytes[i];
        link->pipe[i].out_size = ROOM;
    }
    link->ssl[0] = drv_tls_connection(client, &link->pipe[0], host, &error);
    g_assert_no_error(error);
    link->ssl[1] = drv_tls_connection(server, &link->pipe[1], NULL, &error);
    g_assert_no_error(error);
}

static void
link_clear(Link *link)
{
    for (guint i = 0; i < 2; i++) {
        SSL_free(link->ssl[i]);
        g_clear_error(&link->error[i]);
    }
    for (guint i = 0; i < 2; i++) /* after the connections that were made of them */
        g_clear_pointer(&link->own[i], drv_tls_free);
}

static void
step(Link *link, guint end)
{
    DrvTlsPipe *mine = &link->pipe[end], *theirs = &link->pipe[1 - end];
    mine->in = theirs->out;
    mine->in_len = theirs->out_len;
    if (link->error[end] != NULL)
        return;
    guint8 byte;
    ERR_clear_error();
    int r = link->done[end] ? SSL_read(link->ssl[end], &byte, 1) : SSL_do_handshake(link->ssl[end]);
    if (r == 1)
        link->done[end] = TRUE;
    else if (SSL_get_error(link->ssl[end], r) != SSL_ERROR_WANT_READ) {
        if (link->done[end]) /* and here the peer refuses our certificate */
            g_assert_false(drv_tls_is_unreadable());
        drv_tls_explain(link->ssl[end], "PEER", "HOST", &link->error[end]);
    }
}

/* Both ends speak until neither has anything to say. The client reads on, as what the server thinks
 * of its certificate comes after its own handshake. */
static void
shake(Link *link)
{
    for (guint i = 0; i < 10; i++)
        step(link, i % 2);
}

static void
expect(const Link *link, guint end, const char *message)
{
    g_assert_error(link->error[end], DRV_ERROR, DRV_ERROR_TLS);
    g_assert_cmpstr(link->error[end]->message, ==, message);
}

static DrvTls *
load(const char *dir)
{
    g_autoptr(GError) error = NULL;
    DrvTls *tls = drv_tls_new(dir, &error);
    g_assert_no_error(error);
    return tls;
}

static void
run(Link *link, const char *client_dir, const char *server_dir, const char *host)
{
    DrvTls *client = load(client_dir), *server = load(server_dir);
    link_init(link, client, server, host);
    link->own[0] = client;
    link->own[1] = server;
    shake(link);
}

static void
test_good(void)
{
    g_autoptr(TestPki) pki = test_pki_new();
    static const char *const hosts[] = {"localhost", "127.0.0.1"};
    for (guint i = 0; i < G_N_ELEMENTS(hosts); i++) {
        g_autofree Link *link = g_new(Link, 1);
        guint8 a[32], b[32], c[32];
        run(link, test_pki_good(pki, "one"), test_pki_good(pki, "two"), hosts[i]);
        g_assert_no_error(link->error[0]);
        g_assert_no_error(link->error[1]);
        g_assert_true(link->done[0] && link->done[1]);
        g_assert_cmpstr(SSL_get_version(link->ssl[0]), ==, "TLSv1.3");
        g_assert_cmpstr(SSL_get_cipher(link->ssl[0]), ==, "TLS_AES_128_GCM_SHA256");
        g_autofree char *server = drv_tls_peer_name(link->ssl[0]);
        g_autofree char *client = drv_tls_peer_name(link->ssl[1]);
        g_assert_cmpstr(server, ==, "two");
        g_assert_cmpstr(client, ==, "one");
        g_assert_true(drv_tls_peer_fingerprint(link->ssl[0], a));
        g_assert_true(drv_tls_peer_fingerprint(link->ssl[0], b));
        g_assert_true(drv_tls_peer_fingerprint(link->ssl[1], c));
        g_assert_cmpmem(a, 32, b, 32);
        g_assert_cmpint(memcmp(a, c, 32), !=, 0);
        link_clear(link);
    }
}

/* A record never takes more than the room that lanes keep for it. */
static void
test_record_room(void)
{
    g_autoptr(TestPki) pki = test_pki_new();
    g_autofree Link *link = g_new(Link, 1);
    guint8 data[DRV_TLS_RECORD] = {0};
    run(link, test_pki_good(pki, "one"), test_pki_good(pki, "two"), "localhost");
    gsize before = link->pipe[0].out_len;
    g_assert_cmpint(SSL_key_update(link->ssl[0], SSL_KEY_UPDATE_NOT_REQUESTED), ==, 1);
    g_assert_cmpint(SSL_write(link->ssl[0], data, sizeof data), ==, (int)sizeof data);
    g_assert_cmpuint(link->pipe[0].out_len - before, <=, DRV_TLS_RECORD_ROOM);
    link_clear(link);
}

/* Two CAs that have one name, as those of two 'pki init' have, or two. */
static void
test_wrong_ca(gconstpointer data)
{
    g_autoptr(TestPki) ours = test_pki_new();
    g_autoptr(TestPki) theirs = test_pki_named(data);
    g_autofree Link *link = g_new(Link, 1);
    run(link, test_pki_good(ours, "one"), test_pki_good(theirs, "two"), "localhost");
    g_assert_error(link->error[0], DRV_ERROR, DRV_ERROR_TLS);
    g_assert_true(
        g_str_has_prefix(link->error[0]->message, "the certificate of PEER is not from our CA ("));
    expect(link, 1,
           "PEER does not know the CA of our certificate: both hosts need certificates from one "
           "'drover pki init'");
    link_clear(link);
}

static void
test_dates(void)
{
    g_autoptr(TestPki) pki = test_pki_new();
    g_autofree Link *link = g_new(Link, 1);
    const char *good = test_pki_good(pki, "good");
    const char *old = test_pki_host(pki, "old", "DNS:localhost", -2 * HOUR, -HOUR);
    const char *early = test_pki_host(pki, "early", "DNS:localhost", HOUR, 2 * HOUR);
    run(link, good, old, "localhost");
    expect(link, 0, "the certificate of PEER has expired: renew it and restart its droverd");
    expect(link, 1, "PEER says that our certificate has expired: renew it and restart droverd");
    link_clear(link);
    run(link, old, good, "localhost");
    expect(link, 1, "the certificate of PEER has expired: renew it and restart its droverd");
    expect(link, 0, "PEER says that our certificate has expired: renew it and restart droverd");
    link_clear(link);
    run(link, good, early, "localhost");
    expect(link, 0, "the certificate of PEER is not valid yet: check the clocks of both hosts");
    expect(link, 1,
           "PEER refuses our certificate: check that it is valid now and from the CA of "
           "both hosts");
    link_clear(link);
}

static void
expect_cert_name(const char *expected, guint n, const struct CertName *names)
{
    g_autoptr(X509_NAME) subject = X509_NAME_new();
    X509 *cert = X509_new();
    for (guint i = 0; i < n; i++)
        g_assert_cmpint(X509_NAME_add_entry_by_NID(subject, NID_commonName, names[i].type,
                                                   (const guint8 *)names[i].bytes, names[i].len, -1,
                                                   0),
                        ==, 1);
    g_assert_cmpint(X509_set_subject_name(cert, subject), ==, 1);
    g_autofree char *name = drv_tls_cert_name(cert);
    g_assert_cmpstr(name, ==, expected);
    X509_free(cert);
}

/* A name is all of a certificate's name, or none. */
static void
test_cert_names(void)
{
    const struct CertName plain = {V_ASN1_UTF8STRING, "alpha", 5};
    const struct CertName cut = {V_ASN1_UTF8STRING, "alpha\0.evil.example", 19};
    const struct CertName wide = {V_ASN1_BMPSTRING, "\0b\0e\0t\0a", 8};
    const struct CertName latin = {V_ASN1_T61STRING, "h\xf6st", 4};
    const struct CertName empty = {V_ASN1_UTF8STRING, "", 0};
    const struct CertName two[] = {plain, wide};
    expect_cert_name("alpha", 1, &plain);
    expect_cert_name("beta", 1, &wide);
    expect_cert_name("h\xc3\xb6st", 1, &latin);
    expect_cert_name(NULL, 1, &cut);
    expect_cert_name(NULL, 1, &empty);
    expect_cert_name(NULL, 0, NULL);
    expect_cert_name(NULL, 2, two);
}

static void
test_names(void)
{
    g_autoptr(TestPki) pki = test_pki_new();
    g_autofree Link *link = g_new(Link, 1);
    const char *good = test_pki_good(pki, "good");
    static const char *const wrong[] = {"otherhost", "192.0.2.1", "::1"};
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        run(link, good, good, wrong[i]);
        expect(link, 0,
               "the certificate of PEER is not for 'HOST': connect to a name or address that it "
               "carries, or make one with 'drover pki init --host NAME=HOST'");
        g_assert_error(link->error[1], DRV_ERROR, DRV_ERROR_TLS);
        link_clear(link);
    }
}

/* A client or server that is not drover: made with OpenSSL alone. */
static SSL *
foreign(SSL_CTX *ctx, Link *link, guint end, gboolean old)
{
    SSL *ours = link->ssl[end];
    SSL *ssl = SSL_new(ctx);
    if (old)
        SSL_set_max_proto_version(ssl, TLS1_2_VERSION);
    BIO *bio = SSL_get_rbio(ours);
    BIO_up_ref(bio);
    SSL_set_bio(ssl, bio, bio);
    if (end == 0)
        SSL_set_connect_state(ssl);
    else
        SSL_set_accept_state(ssl);
    SSL_free(ours);
    link->ssl[end] = ssl;
    return ssl;
}

static void
test_foreign_peers(void)
{
    g_autoptr(TestPki) pki = test_pki_new();
    g_autoptr(DrvTls) tls = load(test_pki_good(pki, "good"));
    g_autofree Link *link = g_new(Link, 1);
    SSL_CTX *client = SSL_CTX_new(TLS_client_method());

    link_init(link, tls, tls, "localhost");
    foreign(client, link, 0, FALSE); /* has no certificate */
    shake(link);
    expect(link, 1, "PEER did not show a certificate: start it with --pki, or it is not a droverd");
    expect(link, 0, "PEER wants a certificate from us and got none: check --pki");
    link_clear(link);

    link_init(link, tls, tls, "localhost");
    foreign(client, link, 0, TRUE);
    shake(link);
    expect(link, 1, "PEER speaks a TLS older than 1.3, which drover refuses: is it a droverd?");
    expect(link, 0, "PEER does not speak TLS 1.3: is it a droverd?");
    link_clear(link);
    SSL_CTX_free(client);

    static const guint8 http[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    link_init(link, tls, tls, "localhost");
    step(link, 0);
    memcpy(link->bytes[1], http, sizeof http);
    link->pipe[1].out_len = sizeof http;
    step(link, 0);
    expect(link, 0, "PEER does not speak TLS: is it a droverd?");
    link_clear(link);
}

static void
expect_load_error(const char *dir, const char *file, const char *what)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_tls_new(dir, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);
    g_autofree char *begin = g_strdup_printf("%s %s/%s cannot be used (", what, dir, file);
    g_assert_true(g_str_has_prefix(error->message, begin));
    g_assert_true(g_str_has_suffix(error->message, "): make one with 'drover pki init'"));
}

static void
test_files(void)
{
    g_autoptr(TestPki) pki = test_pki_new();
    static const char *const files[][2] = {{"ca.pem", "the CA certificate"},
                                           {"cert.pem", "the certificate"},
                                           {"key.pem", "the private key"}};
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        const char *dir = test_pki_good(pki, "x");
        g_autofree char *path = g_build_filename(dir, files[i][0], NULL);
        g_assert_true(g_file_set_contents(path, "nonsense", -1, NULL));
        expect_load_error(dir, files[i][0], files[i][1]);
        g_unlink(path);
        expect_load_error(dir, files[i][0], files[i][1]);
    }
    /* The key of somebody else. */
    const char *a = test_pki_good(pki, "a"), *b = test_pki_good(pki, "b");
    g_autofree char *from = g_build_filename(a, "key.pem", NULL);
    g_autofree char *to = g_build_filename(b, "key.pem", NULL);
    g_autofree char *key = NULL;
    g_assert_true(g_file_get_contents(from, &key, NULL, NULL));
    g_assert_true(g_file_set_contents(to, key, -1, NULL));
    expect_load_error(b, "key.pem", "the private key");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tls/good", test_good);
    g_test_add_func("/tls/record-room", test_record_room);
    g_test_add_data_func("/tls/wrong-ca/same-name", "test CA", test_wrong_ca);
    g_test_add_data_func("/tls/wrong-ca/other-name", "other CA", test_wrong_ca);
    g_test_add_func("/tls/dates", test_dates);
    g_test_add_func("/tls/names", test_names);
    g_test_add_func("/tls/cert-names", test_cert_names);
    g_test_add_func("/tls/foreign-peers", test_foreign_peers);
    g_test_add_func("/tls/files", test_files);
    return g_test_run();
}
