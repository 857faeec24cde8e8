/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/pki-x509.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"

G_DEFINE_AUTOPTR_CLEANUP_FUNC(BIO, BIO_free_all)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BIGNUM, BN_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(X509_EXTENSION, X509_EXTENSION_free)

gboolean
drv_x509_fail(const char *doing, GError **error)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    g_set_error(error, DRV_ERROR, DRV_ERROR_TLS, "%s failed%s%s", doing, reason != NULL ? ": " : "",
                reason != NULL ? reason : "");
    ERR_clear_error();
    return FALSE;
}

EVP_PKEY *
drv_x509_new_key(GError **error)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    if (key == NULL)
        drv_x509_fail("making a key", error);
    return key;
}

static gboolean
add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    g_autoptr(X509_EXTENSION) extension = X509V3_EXT_nconf_nid(NULL, &context, nid, value);
    return extension != NULL && X509_add_ext(cert, extension, -1) == 1;
}

/* 127 random bits: positive in the encoding, and nobody has to keep a counter. */
static gboolean
set_serial(X509 *cert)
{
    g_autoptr(BIGNUM) number = BN_new();
    return number != NULL && BN_rand(number, 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
           BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert)) != NULL;
}

/* Everything but extensions and signature. */
static X509 *
new_cert(const char *name, EVP_PKEY *key, gint64 from, gint64 until)
{
    g_autoptr(X509) cert = X509_new();
    if (cert == NULL || X509_set_version(cert, X509_VERSION_3) != 1 || !set_serial(cert) ||
        ASN1_TIME_set(X509_getm_notBefore(cert), (time_t)from) == NULL ||
        ASN1_TIME_set(X509_getm_notAfter(cert), (time_t)until) == NULL ||
        X509_set_pubkey(cert, key) != 1 ||
        X509_NAME_add_entry_by_NID(X509_get_subject_name(cert), NID_commonName, MBSTRING_UTF8,
                                   (const unsigned char *)name, -1, -1, 0) != 1)
        return NULL;
    return g_steal_pointer(&cert);
}

X509 *
drv_x509_new_ca(EVP_PKEY *key, gint64 from, gint64 until, GError **error)
{
    /* A name of its own: certificates of another authority are then said to be of an unknown
     * issuer, and not to have a bad signature. */
    guint8 id[4] = {0};
    RAND_bytes(id, sizeof id);
    g_autofree char *name =
        g_strdup_printf("drover CA %02x%02x%02x%02x", id[0], id[1], id[2], id[3]);
    g_autoptr(X509) cert = new_cert(name, key, from, until);
    if (cert == NULL || X509_set_issuer_name(cert, X509_get_subject_name(cert)) != 1 ||
        !add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(cert, cert, NID_subject_key_identifier, "hash") ||
        X509_sign(cert, key, EVP_sha256()) == 0) {
        drv_x509_fail("making the CA's certificate", error);
        return NULL;
    }
    return g_steal_pointer(&cert);
}

X509 *
drv_x509_new_host(const char *name, const char *names, EVP_PKEY *key, X509 *ca, EVP_PKEY *ca_key,
                  gint64 from, gint64 until, GError **error)
{
    g_autoptr(X509) cert = new_cert(name, key, from, until);
    if (cert == NULL || X509_set_issuer_name(cert, X509_get_subject_name(ca)) != 1 ||
        !add_extension(cert, ca, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(cert, ca, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(cert, ca, NID_ext_key_usage, "serverAuth,clientAuth") ||
        !add_extension(cert, ca, NID_subject_key_identifier, "hash") ||
        !add_extension(cert, ca, NID_authority_key_identifier, "keyid:always") ||
        !add_extension(cert, ca, NID_subject_alt_name, names) ||
        X509_sign(cert, ca_key, EVP_sha256()) == 0) {
        drv_x509_fail("making a host's certificate", error);
        return NULL;
    }
    return g_steal_pointer(&cert);
}

static char *
bio_text(BIO *bio)
{
    char *data = NULL;
    long len = BIO_get_mem_data(bio, &data);
    return g_strndup(data, (gsize)len);
}

char *
drv_x509_cert_text(X509 *cert, GError **error)
{
    g_autoptr(BIO) bio = BIO_new(BIO_s_mem());
    if (bio != NULL && PEM_write_bio_X509(bio, cert) == 1)
        return bio_text(bio);
    drv_x509_fail("writing a certificate", error);
    return NULL;
}

char *
drv_x509_key_text(EVP_PKEY *key, GError **error)
{
    g_autoptr(BIO) bio = BIO_new(BIO_s_secmem());
    if (bio != NULL && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1)
        return bio_text(bio);
    drv_x509_fail("writing a key", error);
    return NULL;
}

void
drv_x509_free_secret(char *text)
{
    if (text != NULL)
        explicit_bzero(text, strlen(text));
    g_free(text);
}

/* NULL, and a sentence, when the file cannot be read. 'what' is "certificate" or "key". */
static BIO *
open_pem(const char *path, const char *what, struct stat *st, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, st) != 0 || !S_ISREG(st->st_mode)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "cannot read the %s \"%s\": %s", what, path,
                    fd < 0 ? g_strerror(errno) : "it is not a file");
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    return BIO_new_fd(fd, BIO_CLOSE);
}

X509 *
drv_x509_load_cert(const char *path, GError **error)
{
    struct stat st;
    g_autoptr(BIO) bio = open_pem(path, "certificate", &st, error);
    if (bio == NULL)
        return NULL;
    X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    if (cert == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "\"%s\" has no certificate in PEM form: put one there, as 'drover pki init' "
                    "makes it",
                    path);
    ERR_clear_error();
    return cert;
}

/* A daemon has nobody to ask. */
static int
no_passphrase(char *buffer, int size, int writing, void *asked)
{
    *(gboolean *)asked = TRUE;
    return -1;
}

EVP_PKEY *
drv_x509_load_key(const char *path, GError **error)
{
    struct stat st;
    g_autoptr(BIO) bio = open_pem(path, "key", &st, error);
    if (bio == NULL)
        return NULL;
    if ((st.st_mode & 077) != 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "the key \"%s\" is open to other users (mode %04o): make it yours alone with "
                    "'chmod 600', and think about who may have read it",
                    path, st.st_mode & 07777);
        return NULL;
    }
    gboolean asked = FALSE;
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked);
    ERR_clear_error();
    if (key == NULL && asked)
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "the key \"%s\" has a passphrase, and a daemon cannot ask for it: store the "
                    "key without one",
                    path);
    else if (key == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "\"%s\" has no private key in PEM form: put one there, as 'drover pki init' "
                    "makes it",
                    path);
    return key;
}

gboolean
drv_x509_check_pair(X509 *cert, const char *cert_path, EVP_PKEY *key, const char *key_path,
                    GError **error)
{
    int fits = X509_check_private_key(cert, key);
    ERR_clear_error();
    if (fits == 1)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                "the key \"%s\" does not belong to the certificate \"%s\": put the two there that "
                "were made together",
                key_path, cert_path);
    return FALSE;
}

static char *
time_text(const ASN1_TIME *at)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(at, &tm) != 1)
        return g_strdup("a date that cannot be read");
    return g_strdup_printf("%04d-%02d-%02d %02d:%02d UTC", tm.tm_year + 1900, tm.tm_mon + 1,
                           tm.tm_mday, tm.tm_hour, tm.tm_min);
}

gboolean
drv_x509_check_dates(X509 *cert, const char *path, GError **error)
{
    /* 0 stands for a date that cannot be read; it is not in the past, and not in the future. */
    int from = X509_cmp_current_time(X509_get0_notBefore(cert));
    int until = X509_cmp_current_time(X509_get0_notAfter(cert));
    if (from < 0 && until > 0)
        return TRUE;
    gboolean expired = from < 0;
    g_autofree char *when =
        time_text(expired ? X509_get0_notAfter(cert) : X509_get0_notBefore(cert));
    g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                expired ? "the certificate \"%s\" expired on %s: have a new one made"
                        : "the certificate \"%s\" is not valid before %s: check this host's clock",
                path, when);
    return FALSE;
}
