/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/pki.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "common/error.h"
#include "engine/host/pki-x509.h"
#include "engine/transfer/tls.h"

G_DEFINE_AUTOPTR_CLEANUP_FUNC(X509_STORE, X509_STORE_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(X509_STORE_CTX, X509_STORE_CTX_free)

static void
free_chain(STACK_OF(X509) * chain)
{
    sk_X509_pop_free(chain, X509_free);
}

static gboolean
check_files(const char *dir, const char *const *paths, GError **error)
{
    g_autofree char *ca_key = g_build_filename(dir, "ca-key.pem", NULL);
    for (guint i = 0; i < 3; i++) {
        if (g_file_test(paths[i], G_FILE_TEST_EXISTS))
            continue;
        gboolean whole = g_file_test(ca_key, G_FILE_TEST_EXISTS);
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    whole ? "there is no \"%s\": \"%s\" holds the whole authority, so name the "
                            "host's own directory in it"
                          : "there is no \"%s\": 'drover pki init' makes it, and \"%s\" must be "
                            "what it made for this host",
                    paths[i], dir);
        return FALSE;
    }
    return TRUE;
}

/* All certificates of the file; the first is the host's own, which does no harm in the chain. */
static STACK_OF(X509) * load_chain(const char *path)
{
    STACK_OF(X509) *chain = sk_X509_new_null();
    BIO *bio = BIO_new_file(path, "r");
    for (X509 *cert; bio != NULL && (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL;)
        sk_X509_push(chain, cert);
    BIO_free(bio);
    ERR_clear_error();
    return chain;
}

static gboolean
fail_chain(X509_STORE_CTX *context, const char *cert_path, const char *ca_path, const char *as,
           GError **error)
{
    int code = X509_STORE_CTX_get_error(context);
    const char *words = X509_verify_cert_error_string(code);
    if (code == X509_V_ERR_INVALID_PURPOSE || code == X509_V_ERR_UNSUPPORTED_SIGNATURE_ALGORITHM)
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "the certificate \"%s\" may not be used as a %s (%s): have one made for "
                    "serverAuth and clientAuth",
                    cert_path, as, words);
    else if (X509_STORE_CTX_get_error_depth(context) > 0)
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "the CA in \"%s\" cannot be used for the certificate \"%s\" (%s): have both "
                    "made anew",
                    ca_path, cert_path, words);
    else
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "the certificate \"%s\" does not come from the CA in \"%s\" (%s): put the two "
                    "there that belong together",
                    cert_path, ca_path, words);
    return FALSE;
}

static gboolean
verify_as(X509_STORE *store, X509 *cert, STACK_OF(X509) * chain, int purpose, const char *as,
          const char *cert_path, const char *ca_path, GError **error)
{
    g_autoptr(X509_STORE_CTX) context = X509_STORE_CTX_new();
    if (context == NULL || X509_STORE_CTX_init(context, store, cert, chain) != 1 ||
        X509_STORE_CTX_set_purpose(context, purpose) != 1)
        return drv_x509_fail("preparing to verify a certificate", error);
    gboolean ok = X509_verify_cert(context) == 1;
    ERR_clear_error();
    return ok || fail_chain(context, cert_path, ca_path, as, error);
}

static gboolean
check_chain(X509 *cert, const char *cert_path, const char *ca_path, GError **error)
{
    g_autoptr(X509_STORE) store = X509_STORE_new();
    if (store == NULL || X509_STORE_load_file(store, ca_path) != 1)
        return drv_x509_fail("reading the CA's certificate", error);
    STACK_OF(X509) *chain = load_chain(cert_path);
    gboolean ok =
        verify_as(store, cert, chain, X509_PURPOSE_SSL_SERVER, "server", cert_path, ca_path,
                  error) &&
        verify_as(store, cert, chain, X509_PURPOSE_SSL_CLIENT, "client", cert_path, ca_path, error);
    free_chain(chain);
    return ok;
}

gboolean
drv_pki_check(const char *dir, char **name, GError **error)
{
    g_autofree char *ca_path = g_build_filename(dir, "ca.pem", NULL);
    g_autofree char *cert_path = g_build_filename(dir, "cert.pem", NULL);
    g_autofree char *key_path = g_build_filename(dir, "key.pem", NULL);
    const char *paths[] = {cert_path, key_path, ca_path};
    if (!check_files(dir, paths, error))
        return FALSE;

    g_autoptr(X509) ca = drv_x509_load_cert(ca_path, error);
    if (ca == NULL)
        return FALSE;
    g_autoptr(X509) cert = drv_x509_load_cert(cert_path, error);
    if (cert == NULL)
        return FALSE;
    g_autoptr(EVP_PKEY) key = drv_x509_load_key(key_path, error);
    if (key == NULL || !drv_x509_check_pair(cert, cert_path, key, key_path, error) ||
        !drv_x509_check_dates(cert, cert_path, error) ||
        !check_chain(cert, cert_path, ca_path, error))
        return FALSE;
    if (name != NULL)
        *name = drv_tls_cert_name(cert);
    return TRUE;
}
