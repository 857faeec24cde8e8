/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/ktls.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/ssl3.h>
#include <openssl/tls1.h>
#include <string.h>

/*
 * OpenSSL can use kernel TLS itself, but only where it writes to the socket; here io_uring does. So
 * the keys are derived once more, from the traffic secret that OpenSSL reveals (RFC 8446, 7.3):
 *
 *   key = HKDF-Expand-Label(secret, "key", "", key length)
 *   iv  = HKDF-Expand-Label(secret, "iv", "", 12)
 *
 * The kernel knows the iv as a "salt" of four bytes and an "iv" of eight, as TLS 1.2 had them, or
 * with ChaCha20 as an iv of twelve. It makes a record's nonce of both and of the record's number.
 */

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

#define TLS_IV 12

static gboolean
expand_label(const char *digest, const guint8 *secret, gsize secret_len, const char *label,
             guint8 *out, gsize len)
{
    g_autofree char *full = g_strconcat("tls13 ", label, NULL);
    guint8 info[32] = {(guint8)(len >> 8), (guint8)len, (guint8)strlen(full)};
    memcpy(info + 3, full, strlen(full));
    gsize info_len = 3 + strlen(full) + 1; /* an empty context's length ends it */
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret, secret_len),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, info_len),
        OSSL_PARAM_construct_end(),
    };
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, OSSL_KDF_NAME_HKDF, NULL);
    EVP_KDF_CTX *ctx = kdf != NULL ? EVP_KDF_CTX_new(kdf) : NULL;
    gboolean done = ctx != NULL && EVP_KDF_derive(ctx, out, len, params) == 1;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return done;
}

typedef struct {
    guint16 suite;
    const char *digest;
    gsize secret_len;
    guint16 cipher; /* the kernel's number of it */
    socklen_t len;  /* of the kernel's structure, and where its parts are */
    gsize key, key_len;
    gsize salt, salt_len;
    gsize iv;
} Suite;

#define PARTS(member)                                                                              \
    .len = sizeof((DrvKtlsKey *)NULL)->member, .key = G_STRUCT_OFFSET(DrvKtlsKey, member.key),     \
    .key_len = sizeof((DrvKtlsKey *)NULL)->member.key,                                             \
    .salt = G_STRUCT_OFFSET(DrvKtlsKey, member.salt),                                              \
    .salt_len = sizeof((DrvKtlsKey *)NULL)->member.salt,                                           \
    .iv = G_STRUCT_OFFSET(DrvKtlsKey, member.iv)

static const Suite suites[] = {
    {TLS1_3_CK_AES_128_GCM_SHA256 & 0xffff, "SHA256", 32, TLS_CIPHER_AES_GCM_128, PARTS(aes128)},
    {TLS1_3_CK_AES_256_GCM_SHA384 & 0xffff, "SHA384", 48, TLS_CIPHER_AES_GCM_256, PARTS(aes256)},
    {TLS1_3_CK_CHACHA20_POLY1305_SHA256 & 0xffff, "SHA256", 32, TLS_CIPHER_CHACHA20_POLY1305,
     PARTS(chacha)},
};

static const Suite *
find_suite(guint16 number)
{
    for (guint i = 0; i < G_N_ELEMENTS(suites); i++) {
        if (suites[i].suite == number)
            return &suites[i];
    }
    return NULL;
}

gboolean
drv_ktls_key(DrvKtlsKey *key, guint16 number, const guint8 *secret, gsize len)
{
    const Suite *suite = find_suite(number);
    guint8 iv[TLS_IV];
    *key = (DrvKtlsKey){.len = 0};
    if (suite == NULL || len != suite->secret_len)
        return FALSE;
    key->len = suite->len;
    key->info.version = TLS_1_3_VERSION;
    key->info.cipher_type = suite->cipher;
    guint8 *bytes = (guint8 *)key; /* its rec_seq stays 0: no record was sent yet */
    gboolean done =
        expand_label(suite->digest, secret, len, "key", bytes + suite->key, suite->key_len) &&
        expand_label(suite->digest, secret, len, "iv", iv, sizeof iv);
    memcpy(bytes + suite->salt, iv, suite->salt_len);
    memcpy(bytes + suite->iv, iv + suite->salt_len, sizeof iv - suite->salt_len);
    OPENSSL_cleanse(iv, sizeof iv);
    return done;
}

void
drv_ktls_key_clear(DrvKtlsKey *key)
{
    OPENSSL_cleanse(key, sizeof *key);
}

gboolean
drv_ktls_send(int fd, const DrvKtlsKey *key)
{
    /* With the first alone, the socket is still one that sends what it is given. */
    return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls") == 0 &&
           setsockopt(fd, SOL_TLS, TLS_TX, key, key->len) == 0;
}

void
drv_ktls_alert(int fd)
{
    guint8 alert[] = {SSL3_AL_FATAL, SSL3_AD_BAD_RECORD_MAC};
    union {
        struct cmsghdr header; /* for its alignment */
        guint8 bytes[CMSG_SPACE(1)];
    } control = {.bytes = {0}};
    struct iovec iov = {alert, sizeof alert};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
    cmsg->cmsg_level = SOL_TLS;
    cmsg->cmsg_type = TLS_SET_RECORD_TYPE;
    cmsg->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(cmsg) = SSL3_RT_ALERT;
    sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}
