/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/tls.h"

#include "common/error.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>

/* Of a host: the longest that DNS has. */
#define NAME_MAX_BYTES 255

struct _DrvTls {
    SSL_CTX *client;
    SSL_CTX *server;
    BIO_METHOD *method;
};

/* --- a BIO over a DrvTlsPipe --- */

static int
pipe_read(BIO *bio, char *data, int len)
{
    DrvTlsPipe *pipe = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    gsize n = MIN((gsize)len, pipe->in_len - pipe->in_pos);
    if (n == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(data, pipe->in + pipe->in_pos, n);
    pipe->in_pos += n;
    return (int)n;
}

static int
pipe_write(BIO *bio, const char *data, int len)
{
    DrvTlsPipe *pipe = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (pipe->mute)
        return len;
    gsize n = MIN((gsize)len, pipe->out_size - pipe->out_len);
    if (n == 0) {
        BIO_set_retry_write(bio);
        return -1;
    }
    memcpy(pipe->out + pipe->out_len, data, n);
    pipe->out_len += n;
    if (pipe->secret_len > 0)
        pipe->secret_used += n;
    return (int)n;
}

static long
pipe_ctrl(BIO *bio, int command, long num, void *ptr)
{
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static int
pipe_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

static BIO_METHOD *
pipe_method(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "drover pipe");
    BIO_meth_set_read(method, pipe_read);
    BIO_meth_set_write(method, pipe_write);
    BIO_meth_set_ctrl(method, pipe_ctrl);
    BIO_meth_set_create(method, pipe_create);
    return method;
}

/* --- contexts --- */

static const char *
openssl_reason(void)
{
    unsigned long err = ERR_peek_last_error();
    const char *reason = err != 0 ? ERR_reason_error_string(err) : NULL;
    return reason != NULL ? reason : "unknown reason";
}

static gboolean
load_failed(const char *what, const char *path, GError **error)
{
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "%s %s cannot be used (%s): make one with 'drover pki init'", what, path,
                openssl_reason());
    ERR_clear_error();
    return FALSE;
}

static gboolean
load_identity(SSL_CTX *ctx, const char *dir, GError **error)
{
    g_autofree char *ca = g_build_filename(dir, "ca.pem", NULL);
    g_autofree char *cert = g_build_filename(dir, "cert.pem", NULL);
    g_autofree char *key = g_build_filename(dir, "key.pem", NULL);
    ERR_clear_error();
    if (SSL_CTX_load_verify_file(ctx, ca) != 1)
        return load_failed("the CA certificate", ca, error);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        return load_failed("the certificate", cert, error);
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1)
        return load_failed("the private key", key, error);
    return TRUE;
}

static SSL_CTX *
new_context(const SSL_METHOD *method, const char *dir, GError **error)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
    /* AES-128 first: it is as safe here and the cheapest where the CPU has AES; ChaCha20 for those
     * that have not. */
    SSL_CTX_set_ciphersuites(
        ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    /* Sessions resume by drover's own means; tickets would be bytes that no frame accounts for. */
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (!load_identity(ctx, dir, error)) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

DrvTls *
drv_tls_new(const char *dir, GError **error)
{
    g_autoptr(DrvTls) tls = g_new0(DrvTls, 1);
    tls->method = pipe_method();
    tls->client = new_context(TLS_client_method(), dir, error);
    if (tls->client == NULL)
        return NULL;
    tls->server = new_context(TLS_server_method(), dir, error);
    if (tls->server == NULL)
        return NULL;
    return g_steal_pointer(&tls);
}

void
drv_tls_free(DrvTls *tls)
{
    if (tls == NULL)
        return;
    SSL_CTX_free(tls->client);
    SSL_CTX_free(tls->server);
    BIO_meth_free(tls->method);
    g_free(tls);
}

static gboolean
expect_host(SSL *ssl, const char *host)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    if (g_hostname_is_ip_address(host))
        return X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1;
    SSL_set_tlsext_host_name(ssl, host);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return X509_VERIFY_PARAM_set1_host(param, host, 0) == 1;
}

SSL *
drv_tls_connection(DrvTls *tls, DrvTlsPipe *pipe, const char *host, GError **error)
{
    SSL *ssl = SSL_new(host != NULL ? tls->client : tls->server);
    BIO *bio = BIO_new(tls->method);
    if (ssl == NULL || bio == NULL || (host != NULL && !expect_host(ssl, host))) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS, "TLS cannot be set up: %s", openssl_reason());
        ERR_clear_error();
        SSL_free(ssl);
        BIO_free(bio);
        return NULL;
    }
    BIO_set_data(bio, pipe);
    SSL_set_bio(ssl, bio, bio);
    if (host != NULL)
        SSL_set_connect_state(ssl);
    else
        SSL_set_accept_state(ssl);
    return ssl;
}

/* --- secrets --- */

/* A line is "LABEL CLIENT_RANDOM SECRET", the last two in hexadecimal. OpenSSL gives ours when it
 * has written the last record under the handshake's own. */
static void
take_secret(const SSL *ssl, const char *line)
{
    DrvTlsPipe *pipe = BIO_get_data(SSL_get_rbio(ssl));
    const char *label =
        SSL_is_server(ssl) ? "SERVER_TRAFFIC_SECRET_0 " : "CLIENT_TRAFFIC_SECRET_0 ";
    const char *hex = strrchr(line, ' ');
    if (!g_str_has_prefix(line, label) || hex == NULL || strlen(++hex) > 2 * sizeof pipe->secret)
        return;
    gsize len = 0;
    while (g_ascii_isxdigit(hex[2 * len]) && g_ascii_isxdigit(hex[2 * len + 1])) {
        pipe->secret[len] = (guint8)(g_ascii_xdigit_value(hex[2 * len]) << 4 |
                                     g_ascii_xdigit_value(hex[2 * len + 1]));
        len++;
    }
    pipe->secret_len = len;
}

void
drv_tls_reveal(DrvTls *tls)
{
    SSL_CTX_set_keylog_callback(tls->client, take_secret);
    SSL_CTX_set_keylog_callback(tls->server, take_secret);
}

void
drv_tls_pipe_forget(DrvTlsPipe *pipe)
{
    OPENSSL_cleanse(pipe->secret, sizeof pipe->secret);
    pipe->secret_len = 0;
}

/* --- errors --- */

gboolean
drv_tls_is_unreadable(void)
{
    unsigned long err = ERR_peek_last_error();
    switch (ERR_GET_REASON(err) - SSL_AD_REASON_OFFSET) {
    case SSL_AD_UNEXPECTED_MESSAGE: /* what the peer says of records that it cannot make out */
    case SSL_AD_BAD_RECORD_MAC:
    case SSL_AD_RECORD_OVERFLOW:
    case SSL_AD_DECODE_ERROR:
    case SSL_AD_PROTOCOL_VERSION:
        return TRUE;
    default: /* another alert, or our own finding */
        return err != 0 && ERR_GET_REASON(err) < SSL_AD_REASON_OFFSET;
    }
}

/* What we found wrong with the peer's certificate. */
static void
explain_verify(long result, const char *peer, const char *host, GError **error)
{
    const char *text = X509_verify_cert_error_string(result);
    switch (result) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "the certificate of %s has expired: renew it and restart its droverd", peer);
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "the certificate of %s is not valid yet: check the clocks of both hosts", peer);
        break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "the certificate of %s is not for '%s': connect to a name or address that it "
                    "carries, or make one with 'drover pki init --host NAME=%s'",
                    peer, host, host);
        break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "the certificate of %s is not from our CA (%s): both hosts need certificates "
                    "from one 'drover pki init'",
                    peer, text);
        break;
    case X509_V_ERR_INVALID_PURPOSE:
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "the certificate of %s is not meant for both ends of a connection, as a "
                    "droverd's must be: make one with 'drover pki init'",
                    peer);
        break;
    default:
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS, "the certificate of %s was refused: %s", peer,
                    text);
    }
}

/* The alerts by which the peer says what it found wrong with ours. */
static const struct {
    int reason;
    const char *sentence; /* %s: the peer */
} alerts[] = {
    {SSL_R_TLSV1_ALERT_UNKNOWN_CA, "%s does not know the CA of our certificate: both hosts need "
                                   "certificates from one 'drover pki init'"},
    /* ... or knows one of the same name, which another 'pki init' made. */
    {SSL_R_TLSV1_ALERT_DECRYPT_ERROR, "%s does not know the CA of our certificate: both hosts need "
                                      "certificates from one 'drover pki init'"},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED,
     "%s says that our certificate has expired: renew it and restart droverd"},
    {SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, "%s refuses our certificate: check that it is valid now "
                                        "and from the CA of both hosts"},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, "%s refuses our certificate: check that it is valid "
                                            "now and from the CA of both hosts"},
    {SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED,
     "%s wants a certificate from us and got none: check --pki"},
    {SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, "%s does not speak TLS 1.3: is it a droverd?"},
    {SSL_R_WRONG_VERSION_NUMBER, "%s does not speak TLS: is it a droverd?"},
    {SSL_R_UNSUPPORTED_PROTOCOL,
     "%s speaks a TLS older than 1.3, which drover refuses: is it a droverd?"},
    {SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, "%s has no signature algorithm in common with us: make "
                                            "its certificate with 'drover pki init'"},
    {SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE,
     "%s did not show a certificate: start it with --pki, or it is not a droverd"},
};

void
drv_tls_explain(SSL *ssl, const char *peer, const char *host, GError **error)
{
    /* The last is TLS's own; before it may stand what a signature that does not fit looked like. */
    unsigned long err = ERR_peek_last_error();
    long verify = SSL_get_verify_result(ssl);
    int reason = ERR_GET_REASON(err);
    g_autofree char *text =
        g_strdup(err != 0 ? ERR_reason_error_string(err) : "the connection was closed");
    ERR_clear_error();
    if (verify != X509_V_OK && reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        explain_verify(verify, peer, host != NULL ? host : "?", error);
        return;
    }
    for (guint i = 0; i < G_N_ELEMENTS(alerts); i++) {
        if (err != 0 && alerts[i].reason == reason) {
            g_autoptr(GString) out = g_string_new(alerts[i].sentence);
            g_string_replace(out, "%s", peer, 1);
            g_set_error_literal(error, DRV_ERROR, DRV_ERROR_TLS, out->str);
            return;
        }
    }
    g_set_error(error, DRV_ERROR, DRV_ERROR_TLS, "TLS with %s failed: %s", peer, text);
}

char *
drv_tls_cert_name(X509 *cert)
{
    const X509_NAME *subject = X509_get_subject_name(cert);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    unsigned char *utf8 = NULL;
    /* Two names would let one be shown to the authority and the other one to us. */
    if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0)
        return NULL;
    int len =
        ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    ERR_clear_error();
    gboolean good =
        len > 0 && len <= NAME_MAX_BYTES && g_utf8_validate((const char *)utf8, len, NULL);
    char *name = good ? g_strndup((const char *)utf8, (gsize)len) : NULL;
    OPENSSL_free(utf8);
    return name;
}

char *
drv_tls_peer_name(SSL *ssl)
{
    X509 *cert = SSL_get0_peer_certificate(ssl);
    return cert != NULL ? drv_tls_cert_name(cert) : NULL;
}

gboolean
drv_tls_peer_fingerprint(SSL *ssl, guint8 digest[32])
{
    X509 *cert = SSL_get0_peer_certificate(ssl);
    unsigned len = 32;
    return cert != NULL && X509_digest(cert, EVP_sha256(), digest, &len) == 1;
}
