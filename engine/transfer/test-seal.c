/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/test-seal.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>

#define TAG 16

typedef struct {
    const EVP_CIPHER *cipher;
    const guint8 *key;
    guint8 nonce[12];
} Seal;

static Seal
open_key(const DrvKtlsKey *key)
{
    Seal seal = {.cipher = NULL};
    g_assert_cmpuint(key->info.version, ==, 0x0304);
    switch (key->info.cipher_type) {
    case TLS_CIPHER_AES_GCM_128:
        g_assert_cmpuint(key->len, ==, sizeof key->aes128);
        seal.cipher = EVP_aes_128_gcm();
        seal.key = key->aes128.key;
        memcpy(seal.nonce, key->aes128.salt, 4);
        memcpy(seal.nonce + 4, key->aes128.iv, 8);
        break;
    case TLS_CIPHER_AES_GCM_256:
        g_assert_cmpuint(key->len, ==, sizeof key->aes256);
        seal.cipher = EVP_aes_256_gcm();
        seal.key = key->aes256.key;
        memcpy(seal.nonce, key->aes256.salt, 4);
        memcpy(seal.nonce + 4, key->aes256.iv, 8);
        break;
    case TLS_CIPHER_CHACHA20_POLY1305:
        g_assert_cmpuint(key->len, ==, sizeof key->chacha);
        seal.cipher = EVP_chacha20_poly1305();
        seal.key = key->chacha.key;
        memcpy(seal.nonce, key->chacha.iv, 12);
        break;
    default:
        g_assert_not_reached();
    }
    return seal;
}

gsize
test_seal(const DrvKtlsKey *key, guint64 number, const guint8 *plain, gsize len, guint8 *record)
{
    static const guint8 type = 23; /* application data */
    Seal seal = open_key(key);
    gsize inner = len + 1 + TAG;
    guint8 header[5] = {type, 3, 3, (guint8)(inner >> 8), (guint8)inner};
    for (guint i = 0; i < 8; i++)
        seal.nonce[11 - i] ^= (guint8)(number >> (8 * i));
    guint8 *out = record + sizeof header;
    int n, more;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    memcpy(record, header, sizeof header);
    g_assert_true(EVP_EncryptInit_ex(ctx, seal.cipher, NULL, seal.key, seal.nonce));
    g_assert_true(EVP_EncryptUpdate(ctx, NULL, &n, header, sizeof header));
    g_assert_true(EVP_EncryptUpdate(ctx, out, &n, plain, (int)len));
    g_assert_true(EVP_EncryptUpdate(ctx, out + n, &more, &type, 1));
    g_assert_true(EVP_EncryptFinal_ex(ctx, out + n + more, &n));
    g_assert_true(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, out + len + 1));
    EVP_CIPHER_CTX_free(ctx);
    return sizeof header + inner;
}

void
test_tcp_pair(int fd[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(listener, (struct sockaddr *)&at, sizeof at), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_assert_cmpint(getsockname(listener, (struct sockaddr *)&at, &len), ==, 0);
    fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(fd[0], (struct sockaddr *)&at, sizeof at), ==, 0);
    fd[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(fd[1], >=, 0);
    close(listener);
}

gboolean
test_kernel_has_tls(void)
{
    int fd[2];
    test_tcp_pair(fd);
    gboolean has = setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls") == 0;
    close(fd[0]);
    close(fd[1]);
    return has;
}
