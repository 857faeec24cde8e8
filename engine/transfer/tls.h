/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>
#include <openssl/ssl.h>

/*
 * TLS 1.3 between daemons, mutual, without sockets: bytes come from and go to memory (DrvTlsPipe),
 * so that io_uring does all I/O and OpenSSL none.
 */

/* A daemon's identity and the contexts made of it. Immutable: any thread may use it. */
typedef struct _DrvTls DrvTls;

/* Loads ca.pem, cert.pem and key.pem of 'dir'. Errors name the file and OpenSSL's reason. */
DrvTls *drv_tls_new(const char *dir, GError **error);
void drv_tls_free(DrvTls *tls);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvTls, drv_tls_free)

/* Has connections leave the secret of what they send in their pipe, for kernel TLS. To be called
 * before there are any. */
void drv_tls_reveal(DrvTls *tls);
#define DRV_TLS_SECRET 48

/* The ends of a connection's ciphertext. The owner sets 'in' to what the socket gave and lets 'out'
 * point at where ciphertext may go; OpenSSL moves 'in_pos' and 'out_len'. */
typedef struct {
    const guint8 *in;
    gsize in_len;
    gsize in_pos;
    guint8 *out;
    gsize out_size;
    gsize out_len;
    gboolean mute; /* set by the owner: what OpenSSL says goes nowhere any more */

    /* After drv_tls_reveal(): what our application data is sealed with, and how many bytes OpenSSL
     * has sealed with it. */
    guint8 secret[DRV_TLS_SECRET];
    gsize secret_len;
    gsize secret_used;
} DrvTlsPipe;

/* Wipes the secret. */
void drv_tls_pipe_forget(DrvTlsPipe *pipe);

/* The most that one SSL_write of up to DRV_TLS_RECORD bytes adds to 'out': a record, and a key
 * update before it. */
#define DRV_TLS_RECORD ((gsize)16384)
#define DRV_TLS_RECORD_ROOM (DRV_TLS_RECORD + 512)

/* A connection's TLS state over 'pipe' (borrowed, must live as long), to be freed with SSL_free()
 * before 'tls'. For a client, 'host' is the name or address the peer's certificate must carry; for
 * a server it is NULL and any certificate of the CA is let in. */
SSL *drv_tls_connection(DrvTls *tls, DrvTlsPipe *pipe, const char *host, GError **error);

/* What went wrong with 'ssl', as a sentence about 'peer' that says which certificate is at fault
 * and what to do. Takes the thread's OpenSSL error queue. Always sets an error of class
 * DRV_ERROR_TLS. */
void drv_tls_explain(SSL *ssl, const char *peer, const char *host, GError **error);

/* After the handshake: whether what went wrong is that one end cannot read the other's records, and
 * not that the peer refused our certificate, say. Looks at the thread's OpenSSL error queue: before
 * drv_tls_explain(). */
gboolean drv_tls_is_unreadable(void);

/* The one common name in a certificate, in UTF-8 and of at most 255 bytes; NULL where it has none,
 * several, or one that hides something behind a NUL. What hosts may do hangs on it. */
char *drv_tls_cert_name(X509 *cert);

/* The same of the peer's certificate; and its SHA-256, which tells identities apart. */
char *drv_tls_peer_name(SSL *ssl);
gboolean drv_tls_peer_fingerprint(SSL *ssl, guint8 digest[32]);
