/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/test-pki.h"

#include <glib/gstdio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

struct _TestPki {
    char *dir;
    EVP_PKEY *ca_key;
    X509 *ca;
    glong serial;
    GPtrArray *paths; /* of char: files, then their directories' names in 'hosts' */
    GPtrArray *hosts;
};

static X509 *
new_cert(TestPki *pki, EVP_PKEY *key, const char *name, glong from, glong until)
{
    X509 *cert = X509_new();
    X509_NAME *subject = X509_NAME_new();
    X509_set_version(cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), ++pki->serial);
    X509_gmtime_adj(X509_getm_notBefore(cert), from);
    X509_gmtime_adj(X509_getm_notAfter(cert), until);
    if (name != NULL)
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const guint8 *)name, -1, -1, 0);
    X509_set_subject_name(cert, subject);
    X509_NAME_free(subject);
    X509_set_pubkey(cert, key);
    return cert;
}

static void
add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    g_assert_nonnull(ext);
    g_assert_cmpint(X509_add_ext(cert, ext, -1), ==, 1);
    X509_EXTENSION_free(ext);
}

TestPki *
test_pki_new(void)
{
    return test_pki_named("test CA");
}

TestPki *
test_pki_named(const char *ca)
{
    TestPki *pki = g_new0(TestPki, 1);
    pki->dir = g_dir_make_tmp("drover-pki-XXXXXX", NULL);
    g_assert_nonnull(pki->dir);
    pki->paths = g_ptr_array_new_with_free_func(g_free);
    pki->hosts = g_ptr_array_new_with_free_func(g_free);
    pki->ca_key = EVP_EC_gen("P-256");
    g_assert_nonnull(pki->ca_key);
    pki->ca = new_cert(pki, pki->ca_key, ca, -3600, 3600);
    X509_set_issuer_name(pki->ca, X509_get_subject_name(pki->ca));
    add_extension(pki->ca, pki->ca, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(pki->ca, pki->ca, NID_key_usage, "critical,keyCertSign");
    g_assert_cmpint(X509_sign(pki->ca, pki->ca_key, EVP_sha256()), >, 0);
    return pki;
}

void
test_pki_free(TestPki *pki)
{
    for (guint i = 0; i < pki->paths->len; i++)
        g_unlink(pki->paths->pdata[i]);
    for (guint i = 0; i < pki->hosts->len; i++)
        g_rmdir(pki->hosts->pdata[i]);
    g_rmdir(pki->dir);
    g_ptr_array_unref(pki->paths);
    g_ptr_array_unref(pki->hosts);
    EVP_PKEY_free(pki->ca_key);
    X509_free(pki->ca);
    g_free(pki->dir);
    g_free(pki);
}

static FILE *
open_file(TestPki *pki, const char *dir, const char *name)
{
    char *path = g_build_filename(dir, name, NULL);
    FILE *file = fopen(path, "w");
    g_assert_nonnull(file);
    g_ptr_array_add(pki->paths, path);
    return file;
}

static void
write_cert(TestPki *pki, const char *dir, const char *name, X509 *cert)
{
    FILE *file = open_file(pki, dir, name);
    g_assert_cmpint(PEM_write_X509(file, cert), ==, 1);
    fclose(file);
}

const char *
test_pki_host(TestPki *pki, const char *name, const char *san, glong from, glong until)
{
    g_autofree char *base = g_strdup_printf("%s-%u", name != NULL ? name : "none", pki->hosts->len);
    char *dir = g_build_filename(pki->dir, base, NULL);
    g_assert_cmpint(g_mkdir(dir, 0700), ==, 0);
    g_ptr_array_add(pki->hosts, dir);

    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = new_cert(pki, key, name, from, until);
    X509_set_issuer_name(cert, X509_get_subject_name(pki->ca));
    add_extension(cert, pki->ca, NID_basic_constraints, "critical,CA:FALSE");
    add_extension(cert, pki->ca, NID_ext_key_usage, "serverAuth,clientAuth");
    add_extension(cert, pki->ca, NID_subject_alt_name, san);
    g_assert_cmpint(X509_sign(cert, pki->ca_key, EVP_sha256()), >, 0);

    write_cert(pki, dir, "ca.pem", pki->ca);
    write_cert(pki, dir, "cert.pem", cert);
    FILE *file = open_file(pki, dir, "key.pem");
    g_assert_cmpint(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), ==, 1);
    fclose(file);
    X509_free(cert);
    EVP_PKEY_free(key);
    return dir;
}

const char *
test_pki_good(TestPki *pki, const char *name)
{
    return test_pki_host(pki, name, "DNS:localhost,IP:127.0.0.1", -3600, 3600);
}
