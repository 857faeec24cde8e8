/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>
#include <linux/tls.h>
#include <sys/socket.h>

/*
 * Kernel TLS for sending: after OpenSSL's handshake the kernel seals what is written to a socket.
 * Receiving stays in OpenSSL.
 */

/* What the kernel is told: cipher, key and nonce of a direction whose first record is the next to
 * be sent. Secret: drv_ktls_key_clear() it. */
typedef struct {
    union {
        struct tls_crypto_info info;
        struct tls12_crypto_info_aes_gcm_128 aes128;
        struct tls12_crypto_info_aes_gcm_256 aes256;
        struct tls12_crypto_info_chacha20_poly1305 chacha;
    };
    socklen_t len; /* of the member in use */
} DrvKtlsKey;

/* Derives it from a TLS 1.3 application traffic secret and the cipher suite's number (0x1301 ...).
 * FALSE when it is a suite that the kernel has not, or a secret that is not one. */
gboolean drv_ktls_key(DrvKtlsKey *key, guint16 suite, const guint8 *secret, gsize len);
void drv_ktls_key_clear(DrvKtlsKey *key);

/* Has the kernel seal all that is written to the connected TCP socket from now on. FALSE with errno
 * where it cannot; the socket is then as it was. */
gboolean drv_ktls_send(int fd, const DrvKtlsKey *key);

/* Tells the peer of such a socket that its records cannot be read, if there is room for that. */
void drv_ktls_alert(int fd);
