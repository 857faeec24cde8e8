/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

/* Keys and certificates for pki.c and pki-check.c; knows files, but not which ones there are.
 * Times are seconds since 1970. Errors are DRV_ERROR_TLS, or DRV_ERROR_IO for files. */

G_DEFINE_AUTOPTR_CLEANUP_FUNC(EVP_PKEY, EVP_PKEY_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(X509, X509_free)

/* Sets the error to "'doing' failed" with OpenSSL's last words, and forgets these. Always FALSE. */
gboolean drv_x509_fail(const char *doing, GError **error);

EVP_PKEY *drv_x509_new_key(GError **error);

/* A self-signed authority. */
X509 *drv_x509_new_ca(EVP_PKEY *key, gint64 from, gint64 until, GError **error);

/* A host's certificate with the common name 'name' and the subject alternative names 'names', in
 * OpenSSL's notation ("DNS:a,IP:10.0.0.1"): the caller has checked what is in there. */
X509 *drv_x509_new_host(const char *name, const char *names, EVP_PKEY *key, X509 *ca,
                        EVP_PKEY *ca_key, gint64 from, gint64 until, GError **error);

/* PEM text. The key's is to be freed with drv_x509_free_secret(). NULL only with an error. */
char *drv_x509_cert_text(X509 *cert, GError **error);
char *drv_x509_key_text(EVP_PKEY *key, GError **error);
void drv_x509_free_secret(char *text);

/* The first certificate in a file. */
X509 *drv_x509_load_cert(const char *path, GError **error);

/* A key that is not readable by group or others, and has no passphrase. */
EVP_PKEY *drv_x509_load_key(const char *path, GError **error);

/* Whether the key belongs to the certificate, and whether that is valid now; the paths are for the
 * sentences. */
gboolean drv_x509_check_pair(X509 *cert, const char *cert_path, EVP_PKEY *key, const char *key_path,
                             GError **error);
gboolean drv_x509_check_dates(X509 *cert, const char *path, GError **error);
