/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/pki.h"

#include <glib/gstdio.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/host/pki-x509.h"

#define DAY (24 * 60 * 60)

typedef struct {
    char *dir; /* removed at the end */
} Fixture;

static void
setup(Fixture *f, gconstpointer unused)
{
    f->dir = g_dir_make_tmp("drover-pki-XXXXXX", NULL);
    g_assert_nonnull(f->dir);
}

static void
remove_tree(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *child = g_build_filename(path, name, NULL);
        remove_tree(child);
    }
    g_clear_pointer(&dir, g_dir_close);
    g_assert_cmpint(g_remove(path), ==, 0);
}

static void
teardown(Fixture *f, gconstpointer unused)
{
    remove_tree(f->dir);
    g_free(f->dir);
}

static char *
at(const Fixture *f, const char *name)
{
    return g_build_filename(f->dir, name, NULL);
}

static guint
mode_of(const Fixture *f, const char *name)
{
    g_autofree char *path = at(f, name);
    GStatBuf st;
    g_assert_cmpint(g_stat(path, &st), ==, 0);
    return st.st_mode & 0777;
}

static char *
text_of(const Fixture *f, const char *name)
{
    g_autofree char *path = at(f, name);
    char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    return text;
}

static void
set_text(const Fixture *f, const char *name, const char *text, int mode)
{
    g_autofree char *path = at(f, name);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_assert_cmpint(g_chmod(path, mode), ==, 0);
}

/* Up to three hosts; NULL ends them. */
static gboolean
init(const Fixture *f, const char *a, const char *b, const char *c, GError **error)
{
    g_autoptr(GPtrArray) hosts = g_ptr_array_new();
    const char *texts[] = {a, b, c};
    for (guint i = 0; i < 3 && texts[i] != NULL; i++)
        g_ptr_array_add(hosts, (gpointer)texts[i]);
    return drv_pki_init(f->dir, hosts, error);
}

static void
init_ok(const Fixture *f, const char *a, const char *b, const char *c)
{
    g_autoptr(GError) error = NULL;
    init(f, a, b, c, &error);
    g_assert_no_error(error);
}

static void
assert_says(const GError *error, DrvErrorCode code, const char *says)
{
    g_assert_error(error, DRV_ERROR, (int)code);
    if (strstr(error->message, says) == NULL)
        g_error("expected '%s' in: %s", says, error->message);
}

static void
init_fails(const Fixture *f, const char *a, const char *b, DrvErrorCode code, const char *says)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(init(f, a, b, NULL, &error));
    assert_says(error, code, says);
}

static void
check_ok(const Fixture *f, const char *host)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = at(f, host);
    g_autofree char *name = NULL;
    drv_pki_check(dir, &name, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(name, ==, host);
    g_assert_true(drv_pki_check(dir, NULL, NULL));
}

static void
check_fails(const Fixture *f, const char *host, DrvErrorCode code, const char *says)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = at(f, host);
    char *name = NULL;
    g_assert_false(drv_pki_check(dir, &name, &error));
    assert_says(error, code, says);
    g_assert_null(name);
}

static X509 *
load_cert(const Fixture *f, const char *name)
{
    g_autofree char *path = at(f, name);
    X509 *cert = drv_x509_load_cert(path, NULL);
    g_assert_nonnull(cert);
    return cert;
}

static double
days_left(X509 *cert)
{
    int days, seconds;
    g_assert_cmpint(ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(cert)), ==, 1);
    return days + seconds / (double)DAY;
}

static void
test_init(Fixture *f, gconstpointer unused)
{
    init_ok(f, "host1=10.0.0.1,fd00::1,alias.example", "host2", "10.0.0.3");
    g_assert_cmpuint(mode_of(f, "ca-key.pem"), ==, 0600);
    g_assert_cmpuint(mode_of(f, "ca.pem"), ==, 0644);
    g_assert_cmpuint(mode_of(f, "host1/key.pem"), ==, 0600);
    g_assert_cmpuint(mode_of(f, "host1"), ==, 0700);
    check_ok(f, "host1");
    check_ok(f, "host2");
    check_ok(f, "10.0.0.3");

    g_autofree char *ca = text_of(f, "ca.pem");
    g_autofree char *copy = text_of(f, "host1/ca.pem");
    g_assert_cmpstr(ca, ==, copy);
    g_autofree char *key1 = text_of(f, "host1/key.pem");
    g_autofree char *key2 = text_of(f, "host2/key.pem");
    g_assert_cmpstr(key1, !=, key2);

    /* Nothing but what was promised lies about. */
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    guint entries = 0;
    for (const char *name; (name = g_dir_read_name(dir)) != NULL; entries++)
        g_assert_cmpint(name[0], !=, '.');
    g_assert_cmpuint(entries, ==, 5);
}

static void
test_certificates(Fixture *f, gconstpointer unused)
{
    init_ok(f, "host1=10.0.0.1,fd00::1,alias.example", "10.0.0.3", NULL);
    g_autoptr(X509) cert = load_cert(f, "host1/cert.pem");
    g_assert_cmpint(X509_check_host(cert, "host1", 0, 0, NULL), ==, 1);
    g_assert_cmpint(X509_check_host(cert, "alias.example", 0, 0, NULL), ==, 1);
    g_assert_cmpint(X509_check_host(cert, "host2", 0, 0, NULL), ==, 0);
    g_assert_cmpint(X509_check_ip_asc(cert, "10.0.0.1", 0), ==, 1);
    g_assert_cmpint(X509_check_ip_asc(cert, "fd00:0::1", 0), ==, 1);
    g_assert_cmpint(X509_check_ip_asc(cert, "10.0.0.2", 0), ==, 0);
    g_autoptr(X509) other = load_cert(f, "10.0.0.3/cert.pem");
    g_assert_cmpint(X509_check_ip_asc(other, "10.0.0.3", 0), ==, 1);

    g_assert_cmpint(X509_check_ca(cert), ==, 0);
    g_assert_cmpuint(X509_get_key_usage(cert), ==, KU_DIGITAL_SIGNATURE);
    g_assert_cmpuint(X509_get_extended_key_usage(cert), ==, XKU_SSL_SERVER | XKU_SSL_CLIENT);
    g_assert_cmpfloat(days_left(cert), >, 729);
    g_assert_cmpfloat(days_left(cert), <=, 730);

    g_autoptr(X509) ca = load_cert(f, "ca.pem");
    g_assert_cmpint(X509_check_ca(ca), ==, 1);
    g_assert_cmpuint(X509_get_key_usage(ca), ==, KU_KEY_CERT_SIGN | KU_CRL_SIGN);
    g_assert_cmpfloat(days_left(ca), >, 3649);
    g_assert_cmpint(X509_check_issued(ca, cert), ==, X509_V_OK);
    g_assert_cmpint(X509_verify(cert, X509_get0_pubkey(ca)), ==, 1);
    g_assert_cmpint(EVP_PKEY_get_bits(X509_get0_pubkey(cert)), ==, 256);
    g_assert_cmpint(ASN1_INTEGER_cmp(X509_get0_serialNumber(cert), X509_get0_serialNumber(other)),
                    !=, 0);
}

static void
test_more_hosts(Fixture *f, gconstpointer unused)
{
    init_ok(f, "host1", NULL, NULL);
    g_autofree char *ca = text_of(f, "ca.pem");
    g_autofree char *key = text_of(f, "host1/key.pem");
    init_ok(f, "host2", NULL, NULL);
    check_ok(f, "host2");

    /* One that exists stops the others too, and keeps its key. */
    init_fails(f, "host3", "host1=10.0.0.9", DRV_ERROR_USAGE, "the host host1 has a key in \"");
    g_autofree char *host3 = at(f, "host3");
    g_assert_false(g_file_test(host3, G_FILE_TEST_EXISTS));
    g_autofree char *ca_after = text_of(f, "ca.pem");
    g_autofree char *key_after = text_of(f, "host1/key.pem");
    g_assert_cmpstr(ca, ==, ca_after);
    g_assert_cmpstr(key, ==, key_after);

    /* What a run that died has left behind is in nobody's way. */
    g_autofree char *half = at(f, ".host3.new");
    g_assert_cmpint(g_mkdir(half, 0700), ==, 0);
    set_text(f, ".host3.new/key.pem", "half a k", 0600);
    init_ok(f, "host3", NULL, NULL);
    check_ok(f, "host3");
    g_assert_false(g_file_test(half, G_FILE_TEST_EXISTS));
}

static void
test_bad_hosts(Fixture *f, gconstpointer unused)
{
    static const struct {
        const char *host, *says;
    } cases[] = {
        {"", "'' cannot be a host's name: use its host name"},
        {"=10.0.0.1", "'' cannot be a host's name"},
        {".", "'.' cannot be a host's name"},
        {"..", "'..' cannot be a host's name"},
        {"...", "'...' cannot be a host's name"},
        {".hidden", "cannot be a host's name"},
        {"a/b", "cannot be a host's name"},
        {"../a", "cannot be a host's name"},
        {"a b", "cannot be a host's name"},
        {"a\nb", "'a\\nb' cannot be a host's name"},
        {"a,DNS:b", "cannot be a host's name"},
        {"-rf", "cannot be a host's name"},
        {"*", "cannot be a host's name"},
        {"300.1.1.1", "cannot be a host's name"},
        {"ca.pem", "cannot be a host's name"},
        {"ca-key.pem", "cannot be a host's name"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "at most 64 bytes"},
        {"a=", "the host a has no address after the '='"},
        {"a=,", "'' cannot be an address of the host a"},
        {"a=10.0.0.1,", "'' cannot be an address of the host a"},
        {"a=10.0.0.1:7001", "'10.0.0.1:7001' cannot be an address of the host a"},
        {"a=[fd00::1]", "without ports or brackets"},
        {"a=b=c", "'b=c' cannot be an address"},
        {"a=*.example", "'*.example' cannot be an address"},
        {"a=10.0.0.1 ", "cannot be an address"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++)
        init_fails(f, "good", cases[i].host, DRV_ERROR_USAGE, cases[i].says);
    init_fails(f, "good", "good=10.0.0.1", DRV_ERROR_USAGE, "the host good is given twice");
    /* Nothing was touched. */
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_assert_cmpint(g_mkdir(f->dir, 0700), ==, 0);
}

static void
test_broken_authority(Fixture *f, gconstpointer unused)
{
    init_ok(f, "host1", NULL, NULL);
    g_autofree char *key = text_of(f, "ca-key.pem");
    g_autofree char *key_path = at(f, "ca-key.pem");
    g_autofree char *host_key = text_of(f, "host1/key.pem");
    g_autofree char *host_cert = text_of(f, "host1/cert.pem");

    g_assert_cmpint(g_chmod(key_path, 0640), ==, 0);
    init_fails(f, "host2", NULL, DRV_ERROR_TLS, "is open to other users (mode 0640)");
    set_text(f, "ca-key.pem", host_key, 0600);
    init_fails(f, "host2", NULL, DRV_ERROR_TLS, "does not belong to the certificate");
    set_text(f, "ca-key.pem", "nothing", 0600);
    init_fails(f, "host2", NULL, DRV_ERROR_TLS, "has no private key in PEM form");
    g_remove(key_path);
    init_fails(f, "host2", NULL, DRV_ERROR_IO, "bring the missing file back");
    set_text(f, "ca-key.pem", key, 0600);
    init_ok(f, "host2", NULL, NULL);

    set_text(f, "ca-key.pem", host_key, 0600);
    set_text(f, "ca.pem", host_cert, 0644);
    init_fails(f, "host3", NULL, DRV_ERROR_TLS, "is not the certificate of an authority");
}

static void
test_unwritable(Fixture *f, gconstpointer unused)
{
    g_autofree char *file = at(f, "file");
    set_text(f, "file", "", 0600);
    g_autoptr(GPtrArray) hosts = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    g_assert_false(drv_pki_init(file, hosts, &error));
    assert_says(error, DRV_ERROR_IO, "cannot write \"");
    g_clear_error(&error);
    if (geteuid() != 0)
        return;
    g_assert_cmpint(g_chmod(f->dir, 0755), ==, 0);
    g_assert_cmpint(seteuid(65534), ==, 0);
    g_ptr_array_add(hosts, (gpointer) "host1");
    g_assert_false(drv_pki_init(f->dir, hosts, &error));
    g_assert_cmpint(seteuid(0), ==, 0);
    assert_says(error, DRV_ERROR_IO, "Permission denied");
}

static void
test_check_files(Fixture *f, gconstpointer unused)
{
    init_ok(f, "host1", "host2", NULL);
    check_fails(f, "", DRV_ERROR_IO, "holds the whole authority, so name the host's own directory");
    check_fails(f, "nowhere", DRV_ERROR_IO, "'drover pki init' makes it");

    static const char *const files[] = {"host1/ca.pem", "host1/cert.pem", "host1/key.pem"};
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *text = text_of(f, files[i]);
        g_autofree char *path = at(f, files[i]);
        g_remove(path);
        check_fails(f, "host1", DRV_ERROR_IO, path);
        set_text(f, files[i], "-----BEGIN NONSENSE-----\n", 0600);
        check_fails(f, "host1", DRV_ERROR_TLS, "in PEM form");
        g_remove(path);
        g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
        check_fails(f, "host1", DRV_ERROR_IO, "it is not a file");
        g_rmdir(path);
        set_text(f, files[i], text, 0600);
        check_ok(f, "host1");
    }

    g_autofree char *key_path = at(f, "host1/key.pem");
    static const guint open_modes[] = {0640, 0604, 0660, 0610};
    for (guint i = 0; i < G_N_ELEMENTS(open_modes); i++) {
        g_assert_cmpint(g_chmod(key_path, (int)open_modes[i]), ==, 0);
        check_fails(f, "host1", DRV_ERROR_TLS, "is open to other users (mode 06");
    }
    g_autofree char *other_key = text_of(f, "host2/key.pem");
    set_text(f, "host1/key.pem", other_key, 0400);
    check_fails(f, "host1", DRV_ERROR_TLS, "does not belong to the certificate");
}

static void
test_passphrase(Fixture *f, gconstpointer unused)
{
    init_ok(f, "host1", NULL, NULL);
    g_autofree char *path = at(f, "host1/key.pem");
    g_autoptr(EVP_PKEY) key = drv_x509_load_key(path, NULL);
    FILE *file = fopen(path, "w");
    g_assert_nonnull(file);
    g_assert_cmpint(
        PEM_write_PKCS8PrivateKey(file, key, EVP_aes_128_cbc(), "secret", 6, NULL, NULL), ==, 1);
    fclose(file);
    check_fails(f, "host1", DRV_ERROR_TLS, "has a passphrase, and a daemon cannot ask for it");
}

/* Replaces a host's certificate by one with other dates, from the same authority. */
static void
redate(const Fixture *f, gint64 from, gint64 until)
{
    g_autofree char *key_path = at(f, "host1/key.pem");
    g_autofree char *ca_key_path = at(f, "ca-key.pem");
    g_autoptr(EVP_PKEY) key = drv_x509_load_key(key_path, NULL);
    g_autoptr(EVP_PKEY) ca_key = drv_x509_load_key(ca_key_path, NULL);
    g_autoptr(X509) ca = load_cert(f, "ca.pem");
    gint64 now = g_get_real_time() / G_USEC_PER_SEC;
    g_autoptr(X509) cert =
        drv_x509_new_host("host1", "DNS:host1", key, ca, ca_key, now + from, now + until, NULL);
    g_autofree char *text = drv_x509_cert_text(cert, NULL);
    set_text(f, "host1/cert.pem", text, 0644);
}

static void
test_dates(Fixture *f, gconstpointer unused)
{
    init_ok(f, "host1", NULL, NULL);
    redate(f, -2 * DAY, -DAY);
    check_fails(f, "host1", DRV_ERROR_TLS, "expired on 20");
    redate(f, DAY, 2 * DAY);
    check_fails(f, "host1", DRV_ERROR_TLS, "check this host's clock");
    redate(f, -DAY, DAY);
    check_ok(f, "host1");
}

/* An authority whose own time is over or nearly so. */
static void
test_old_authority(Fixture *f, gconstpointer unused)
{
    init_ok(f, "host1", NULL, NULL);
    g_autofree char *ca_key_path = at(f, "ca-key.pem");
    g_autoptr(EVP_PKEY) ca_key = drv_x509_load_key(ca_key_path, NULL);
    gint64 now = g_get_real_time() / G_USEC_PER_SEC;

    g_autoptr(X509) ending = drv_x509_new_ca(ca_key, now - 9 * DAY, now + DAY, NULL);
    g_autofree char *ending_text = drv_x509_cert_text(ending, NULL);
    set_text(f, "ca.pem", ending_text, 0644);
    init_ok(f, "host2", NULL, NULL);
    check_ok(f, "host2");
    g_autoptr(X509) cert = load_cert(f, "host2/cert.pem");
    g_assert_cmpfloat(days_left(cert), <=, 1);

    g_autoptr(X509) ended = drv_x509_new_ca(ca_key, now - 9 * DAY, now - DAY, NULL);
    g_autofree char *ended_text = drv_x509_cert_text(ended, NULL);
    set_text(f, "ca.pem", ended_text, 0644);
    init_fails(f, "host3", NULL, DRV_ERROR_TLS, "expired on 20");
    redate(f, -DAY, DAY);
    set_text(f, "host1/ca.pem", ended_text, 0644);
    check_fails(f, "host1", DRV_ERROR_TLS, "(certificate has expired): have both made anew");
    /* In a bundle, the one that is still good counts. */
    g_autofree char *both = g_strconcat(ended_text, ending_text, NULL);
    set_text(f, "ca.pem", ending_text, 0644);
    redate(f, -DAY, DAY);
    set_text(f, "host1/ca.pem", both, 0644);
    check_ok(f, "host1");
}

static void
test_foreign_authority(Fixture *f, gconstpointer unused)
{
    Fixture other;
    setup(&other, NULL);
    init_ok(f, "host1", NULL, NULL);
    init_ok(&other, "host1", NULL, NULL);
    g_autofree char *foreign = text_of(&other, "ca.pem");
    set_text(f, "host1/ca.pem", foreign, 0644);
    check_fails(f, "host1", DRV_ERROR_TLS, "does not come from the CA in");
    teardown(&other, NULL);
}

/* The authority's own pair as a host's: right in all but what it is for. */
static void
test_wrong_purpose(Fixture *f, gconstpointer unused)
{
    init_ok(f, "host1", NULL, NULL);
    g_autofree char *ca = text_of(f, "ca.pem");
    g_autofree char *key = text_of(f, "ca-key.pem");
    set_text(f, "host1/cert.pem", ca, 0644);
    set_text(f, "host1/key.pem", key, 0600);
    check_fails(f, "host1", DRV_ERROR_TLS, "may not be used as a server");
}

#define ADD(name) g_test_add("/pki/" #name, Fixture, NULL, setup, test_##name, teardown)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    umask(022);
    ADD(init);
    ADD(certificates);
    ADD(more_hosts);
    ADD(bad_hosts);
    ADD(broken_authority);
    ADD(unwritable);
    ADD(check_files);
    ADD(passphrase);
    ADD(dates);
    ADD(old_authority);
    ADD(foreign_authority);
    ADD(wrong_purpose);
    return g_test_run();
}
