/* SPDX-License-Identifier: Apache-2.0 */
#include <openssl/evp.h>
#include <string.h>

#include "engine/host/pki-x509.h"
#include "engine/image/stream.h"
#include "tests/fuzz/seeds.h"

/* As the drover command asks, and curl. */
static void
write_requests(const char *dir)
{
    static const char *const bare[] = {
        "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip, deflate\r\n\r\n",
        "GET /v1/jobs?limit=20 HTTP/1.1\r\nHost: localhost\r\nConnection: Keep-Alive\r\n\r\n"
        "GET /v1/jobs/j1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /v1/jobs/j1/watch?interval_ms=500 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /v1/metrics HTTP/1.0\r\n\r\n",
        "HEAD /v1/jobs/%6a1 HTTP/1.1\r\nHost: localhost\r\n\r\nDELETE /v1/numa HTTP/1.1\r\n"
        "Host: a\r\n\r\n",
        "POST /v1/jobs/j1/cancel HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    };
    static const char *const posts[][2] = {
        {"migrate", "{\"qmp\":\"/a.qmp\",\"to\":\"10.0.0.2:7000\",\"dest_qmp\":\"/b.qmp\","
                    "\"name\":\"w\\u00e9b\",\"lanes\":4,\"codec\":\"zstd\",\"mode\":\"direct\","
                    "\"downtime_ms\":300,\"max_downtime_ms\":1000,\"keep_source\":true}"},
        {"copies", "{\"image\":\"/a.qcow2\",\"to\":\"[::1]:7000\",\"dest\":\"/b.raw\","
                   "\"dest_format\":\"raw\",\"since\":\"b0\",\"base\":\"\xc3\xa9\",\"delta\":"
                   "\"auto\",\"bandwidth\":65536}"},
        {"tunnels", "{\"listen\":\"/l\",\"to\":\"h:1\",\"connect\":\"/c\"}"},
        {"jobs/j1/resolve", "{\"run_on\":\"source\"}"},
        {"numa", "{\"qmp\":\"/a.qmp\"}"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(bare); i++)
        write_text(dir, "api", i, bare[i]);
    for (guint i = 0; i < G_N_ELEMENTS(posts); i++) {
        g_autofree char *text = g_strdup_printf(
            "POST /v1/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Content-Length: %zu\r\n\r\n%s",
            posts[i][0], strlen(posts[i][1]), posts[i][1]);
        write_text(dir, "api", 100 + i, text);
    }
}

/* A name in each of the ways that there are to write one, and two of them. */
static void
write_certificates(const char *dir)
{
    static const struct {
        int type;
        const char *name;
        int len;
    } names[] = {
        {V_ASN1_UTF8STRING, "web1", 4},     {V_ASN1_PRINTABLESTRING, "web1.example", 12},
        {V_ASN1_T61STRING, "w\xe9", 2},     {V_ASN1_BMPSTRING, "\0w\0\xe9", 4},
        {V_ASN1_UTF8STRING, "web1\0x", 6},  {V_ASN1_UNIVERSALSTRING, "\0\0\0w", 4},
        {V_ASN1_UTF8STRING, "a\nb\x1b", 4}, {V_ASN1_IA5STRING, "", 0},
    };
    g_autoptr(EVP_PKEY) key = drv_x509_new_key(NULL);
    g_autoptr(X509) ca = drv_x509_new_ca(key, 0, 4000000000, NULL);
    for (guint i = 0; i <= G_N_ELEMENTS(names); i++) {
        g_autoptr(X509) cert = drv_x509_new_host("web1", "DNS:web1,IP:10.0.0.1", key, ca, key, 0,
                                                 i == 1 ? 1000000000 : 4000000000, NULL);
        X509_NAME *subject = X509_NAME_new();
        guint first = MIN(i, G_N_ELEMENTS(names) - 1);
        for (guint j = first; j <= i; j++) /* the last has the last two */
            X509_NAME_add_entry_by_NID(subject, NID_commonName, names[j % G_N_ELEMENTS(names)].type,
                                       (guchar *)names[j % G_N_ELEMENTS(names)].name,
                                       names[j % G_N_ELEMENTS(names)].len, -1, 0);
        X509_set_subject_name(cert, subject);
        X509_sign(cert, key, EVP_sha256());
        guint8 *der = NULL;
        int len = i2d_X509(cert, &der);
        write_seed(dir, "cert", "host", i, der, (gsize)len);
        OPENSSL_free(der);
        X509_NAME_free(subject);
    }
}

static void
put_record(GByteArray *out, DrvRecordType type, guint64 first, guint32 count)
{
    const DrvRecord record = {type, first, count};
    guint8 bytes[DRV_RECORD_LEN];
    drv_record_put(&record, bytes);
    g_byte_array_append(out, bytes, sizeof bytes);
}

/* Zeros, the short last block, and the end, with the digest of just that; and leaves. */
static void
write_copies(const char *dir)
{
    const guint64 size = 5 * DRV_IMAGE_BLOCK_MIN + 512; /* as fuzz-copy.c has it */
    g_autoptr(DrvImageDigest) digest = drv_image_digest_new(size, NULL);
    guint8 tail[512];
    memset(tail, 9, sizeof tail);
    drv_image_digest_hash(digest, 5, tail, drv_image_digest_leaf(digest, 5));
    g_autofree char *root = drv_image_digest_root(digest);
    for (guint8 how = 0; how < 8; how++) {
        g_autoptr(GByteArray) out = g_byte_array_new();
        g_byte_array_append(out, &how, 1);
        if (how & 1) {
            g_byte_array_append(out, digest->leaves, (guint)digest->blocks * DRV_IMAGE_LEAF);
        } else {
            put_record(out, DRV_RECORD_ZERO, how & 4 ? 1 : 0, how & 4 ? 2 : 5);
            put_record(out, DRV_RECORD_DATA, 5, sizeof tail);
            g_byte_array_append(out, tail, sizeof tail);
            put_record(out, DRV_RECORD_END, digest->blocks, DRV_RECORD_ROOT_LEN);
            g_byte_array_append(out, (guint8 *)root, DRV_RECORD_ROOT_LEN);
        }
        write_seed(dir, "copy", "peer", how, out->data, out->len);
    }
}

static void
write_files(const char *dir)
{
    static const char log[] = "{\"n\":1,\"at\":\"2026-01-31T12:00:00Z\",\"event\":\"begun\","
                              "\"vm\":\"web1\",\"prev\":\"PREV\"}\n"
                              "{\"n\":2,\"event\":\"ended\",\"error\":null,\"prev\":\"PREV\"}\n";
    static const char row[] =
        "\n\npreparing\n{\"qmp\":\"/q\",\"to\":\"h:1\",\"dest_qmp\":\"/d\",\"lanes\":3}\nw\xc3\xa9"
        "\n10.0.0.2:7\n{\"was_running\":true}\n{\"ram\":{\"bytes\":5}}\n1\nqemu\nno\n99\n";
    for (guint8 how = 0; how < 8; how++) {
        const guint8 head[2] = {how, 2};
        g_autoptr(GByteArray) out = g_byte_array_new();
        g_byte_array_append(out, head, 2);
        g_byte_array_append(out, (const guint8 *)log, sizeof log - 1);
        write_seed(dir, "audit", "log", how, out->data, out->len);
    }
    for (guint8 how = 0; how < 4; how += 2) {
        g_autoptr(GByteArray) out = g_byte_array_new();
        g_byte_array_append(out, &how, 1);
        g_byte_array_append(out, (const guint8 *)row, sizeof row - 1);
        write_seed(dir, "journal", "row", how, out->data, out->len);
    }
    for (guint8 page = 0; page < 8; page++) {
        const guint8 bytes[] = {1, (guint8)(page * 16), 9, 0x41, (guint8)(page * 16), 99, 0xff};
        write_seed(dir, "journal", "file", page, bytes, sizeof bytes);
    }
}

void
write_engine_seeds(const char *dir)
{
    write_requests(dir);
    write_certificates(dir);
    write_copies(dir);
    write_files(dir);
}
