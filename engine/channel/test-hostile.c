/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cursor.h"
#include "common/error.h"
#include "engine/channel/test-rig.h"
#include "engine/transfer/frame.h"

#include <arpa/inet.h>
#include <lz4.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

/* A peer with a good certificate and bad intentions: the daemon refuses what it sends, says why,
 * and goes on serving others. */

typedef struct {
    Rig rig; /* b is the daemon under attack; a is a decent peer with a session of its own */
    const char *pki;
    SSL_CTX *ctx;
    DrvHello *welcome;
    SSL *ssl;
} Attack;

static void
tls_connect(Attack *at)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(at->rig.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&to, sizeof to), ==, 0);
    at->ssl = SSL_new(at->ctx);
    SSL_set_fd(at->ssl, fd);
    g_assert_cmpint(SSL_connect(at->ssl), ==, 1);
}

static void
hang_up(Attack *at)
{
    if (at->ssl != NULL)
        close(SSL_get_fd(at->ssl));
    g_clear_pointer(&at->ssl, SSL_free);
}

static void
send_bytes(Attack *at, const void *bytes, gsize len)
{
    SSL_write(at->ssl, bytes, (int)len); /* may fail: the daemon has hung up */
}

static void
send_frame(Attack *at, DrvFrameHeader header, const void *payload)
{
    guint8 bytes[DRV_FRAME_HEADER];
    drv_frame_encode(&header, bytes);
    send_bytes(at, bytes, sizeof bytes);
    if (header.wire_len > 0)
        send_bytes(at, payload, header.wire_len);
}

static DrvFrameHeader
plain(DrvFrameType type, const void *payload, gsize len)
{
    return (DrvFrameHeader){.type = type,
                            .raw_len = (guint32)len,
                            .wire_len = (guint32)len,
                            .checksum = drv_checksum(payload, len)};
}

static void
send_hello(Attack *at, const DrvHello *hello)
{
    g_autoptr(GByteArray) bytes = drv_hello_encode(hello);
    send_frame(at, plain(DRV_FRAME_HELLO, bytes->data, bytes->len), bytes->data);
}

static gboolean
read_all(Attack *at, guint8 *out, gsize len)
{
    for (gsize have = 0; have < len;) {
        int n = SSL_read(at->ssl, out + have, (int)(len - have));
        if (n <= 0)
            return FALSE;
        have += (gsize)n;
    }
    return TRUE;
}

/* The next frame, or 0 when the daemon has hung up, be it in the middle of one. */
static DrvFrameType
read_frame(Attack *at, GByteArray *payload)
{
    guint8 bytes[DRV_FRAME_HEADER];
    DrvFrameHeader header;
    if (!read_all(at, bytes, sizeof bytes))
        return 0;
    g_assert_true(drv_frame_decode(bytes, &header, NULL));
    g_byte_array_set_size(payload, header.wire_len);
    return read_all(at, payload->data, header.wire_len) ? header.type : 0;
}

static void
expect_hang_up(Attack *at)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    while (read_frame(at, payload) != 0)
        ;
    hang_up(at);
}

/* The refusal's words, by which the other side's user must understand it. */
static void
expect_refusal(Attack *at, const char *words)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    g_assert_cmpint(read_frame(at, payload), ==, DRV_FRAME_REFUSE);
    g_assert_cmpuint(payload->len, >, 2);
    g_autofree char *sentence = g_strndup((const char *)payload->data + 2, payload->len - 2);
    if (strstr(sentence, words) == NULL)
        g_error("refused with '%s', not '%s'", sentence, words);
    expect_hang_up(at);
}

static void
attack_init(Attack *at)
{
    *at = (Attack){0};
    rig_init(&at->rig, 2, 2, 0);
    rig_connect(&at->rig, 0);
    at->pki = test_pki_good(at->rig.pki, "mallory");
    at->ctx = SSL_CTX_new(TLS_client_method());
    g_autofree char *cert = g_build_filename(at->pki, "cert.pem", NULL);
    g_autofree char *key = g_build_filename(at->pki, "key.pem", NULL);
    g_assert_cmpint(SSL_CTX_use_certificate_chain_file(at->ctx, cert), ==, 1);
    g_assert_cmpint(SSL_CTX_use_PrivateKey_file(at->ctx, key, SSL_FILETYPE_PEM), ==, 1);
    SSL_CTX_set_mode(at->ctx, SSL_MODE_AUTO_RETRY);
}

typedef struct {
    RigEnd *end;
    DrvSession *not_this;
} Fresh;

static gboolean
fresh_session(gpointer data)
{
    Fresh *fresh = data;
    return fresh->end->session != fresh->not_this;
}

/* Opens a session of the attacker's own, in good order. The rig's b end becomes this session's. */
static void
greet(Attack *at)
{
    g_autoptr(DrvHello) hello = drv_hello_new();
    g_autoptr(GByteArray) payload = g_byte_array_new();
    hello->name = g_strdup("mallory");
    Fresh fresh = {&at->rig.b, at->rig.b.session};
    tls_connect(at);
    send_hello(at, hello);
    g_assert_cmpint(read_frame(at, payload), ==, DRV_FRAME_WELCOME);
    g_clear_pointer(&at->welcome, drv_hello_free);
    at->welcome = drv_hello_decode(payload->data, payload->len, NULL);
    g_assert_nonnull(at->welcome);
    g_assert_false(drv_hello_wants_new(at->welcome));
    rig_wait(fresh_session, &fresh);
    g_clear_error(&at->rig.b.dead);
}

static gboolean
b_dead(gpointer data)
{
    return ((Attack *)data)->rig.b.dead != NULL;
}

/* The attacker's session is ended for the reason given. */
static void
expect_death(Attack *at, const char *words)
{
    rig_wait(b_dead, at);
    g_assert_error(at->rig.b.dead, DRV_ERROR, DRV_ERROR_PROTOCOL);
    if (strstr(at->rig.b.dead->message, words) == NULL)
        g_error("died of '%s', not '%s'", at->rig.b.dead->message, words);
    expect_hang_up(at);
}

static void
attack_clear(Attack *at)
{
    /* Nobody else was harmed. */
    g_assert_true(drv_session_is_connected(at->rig.a.session));
    g_assert_no_error(at->rig.a.dead);
    hang_up(at);
    SSL_CTX_free(at->ctx);
    g_clear_pointer(&at->welcome, drv_hello_free);
    rig_clear(&at->rig);
}

/* --- greetings --- */

static void
test_versions(void)
{
    Attack at;
    attack_init(&at);
    g_autoptr(DrvHello) newer = drv_hello_new();
    newer->version_min = 7;
    newer->version_max = 9;
    tls_connect(&at);
    send_hello(&at, newer);
    expect_refusal(&at, "versions 7 to 9 are offered and 1 is spoken here");
    g_autoptr(DrvHello) feature = drv_hello_new();
    feature->features = 0x40;
    tls_connect(&at);
    send_hello(&at, feature);
    expect_refusal(&at, "features 0x40 are insisted on");
    attack_clear(&at);
}

static void
test_garbage_greetings(void)
{
    Attack at;
    attack_init(&at);
    static const guint8 http[] = "GET / HTTP/1.1\r\nHost: drover.example.com\r\n\r\n";
    tls_connect(&at);
    send_bytes(&at, http, sizeof http);
    expect_hang_up(&at);
    tls_connect(&at); /* a frame, but no hello */
    send_frame(&at, plain(DRV_FRAME_HELLO, http, sizeof http), http);
    expect_refusal(&at, "does not speak drover's protocol");
    static const DrvFrameType early[] = {DRV_FRAME_WELCOME, DRV_FRAME_REFUSE, DRV_FRAME_PING,
                                         DRV_FRAME_PONG,    DRV_FRAME_ACK,    DRV_FRAME_DATA,
                                         DRV_FRAME_BYE};
    for (guint i = 0; i < G_N_ELEMENTS(early); i++) {
        tls_connect(&at);
        send_frame(&at, plain(early[i], NULL, 0), NULL);
        expect_hang_up(&at);
    }
    attack_clear(&at);
}

static void
test_sessions_of_others(void)
{
    Attack at;
    attack_init(&at);
    greet(&at);
    /* Its own id with another secret; then an id that nobody has. */
    g_autoptr(DrvHello) wrong = drv_hello_new();
    memcpy(wrong->session, at.welcome->session, sizeof wrong->session);
    memcpy(wrong->secret, at.welcome->secret, sizeof wrong->secret);
    wrong->secret[31] ^= 1;
    hang_up(&at);
    tls_connect(&at);
    send_hello(&at, wrong);
    expect_refusal(&at, "somebody else's");
    wrong->session[0] ^= 1;
    tls_connect(&at);
    send_hello(&at, wrong);
    expect_refusal(&at, "is not known here");
    /* Stolen id and secret do not help one with another certificate. */
    at.pki = test_pki_good(at.rig.pki, "eve");
    g_autofree char *cert = g_build_filename(at.pki, "cert.pem", NULL);
    g_autofree char *key = g_build_filename(at.pki, "key.pem", NULL);
    SSL_CTX_use_certificate_chain_file(at.ctx, cert);
    SSL_CTX_use_PrivateKey_file(at.ctx, key, SSL_FILETYPE_PEM);
    g_autoptr(DrvHello) stolen = drv_hello_new();
    memcpy(stolen->session, at.welcome->session, sizeof stolen->session);
    memcpy(stolen->secret, at.welcome->secret, sizeof stolen->secret);
    tls_connect(&at);
    send_hello(&at, stolen);
    expect_refusal(&at, "somebody else's");
    attack_clear(&at);
}

/* --- after the greeting --- */

static void
test_garbage_frames(void)
{
    Attack at;
    attack_init(&at);
    guint8 garbage[200];
    memset(garbage, 0xee, sizeof garbage);
    greet(&at);
    send_bytes(&at, garbage, sizeof garbage);
    expect_death(&at, "type is out of bounds");
    greet(&at);
    send_frame(&at, plain(DRV_FRAME_HELLO, garbage, 8), garbage);
    expect_death(&at, "out of turn");
    greet(&at);
    send_frame(&at, plain(DRV_FRAME_ACK, garbage, 7), garbage);
    expect_death(&at, "malformed ack");
    attack_clear(&at);
}

static DrvFrameHeader
data_frame(guint64 seq, const void *payload, gsize len)
{
    DrvFrameHeader header = plain(DRV_FRAME_DATA, payload, len);
    header.seq = seq;
    return header;
}

static void
test_data(void)
{
    Attack at;
    attack_init(&at);
    static const guint8 bytes[] = "some bytes that are long enough to be worth lying about";

    greet(&at);
    DrvFrameHeader wrong = data_frame(0, bytes, sizeof bytes);
    wrong.checksum.low ^= 1;
    send_frame(&at, wrong, bytes);
    expect_death(&at, "does not match its checksum");

    greet(&at);
    send_frame(&at, data_frame(1000, bytes, sizeof bytes), bytes);
    expect_death(&at, "beyond the credit");

    greet(&at);
    g_autofree guint8 *big = g_malloc0(DRV_FRAME_RAW_MAX);
    send_frame(&at, data_frame(0, big, DRV_FRAME_RAW_MAX), big);
    expect_death(&at, "sent a message of");

    greet(&at);
    DrvFrameHeader last = data_frame(0, NULL, 0);
    last.flags = DRV_DATA_EOF;
    send_frame(&at, last, NULL);
    send_frame(&at, data_frame(1, bytes, sizeof bytes), bytes);
    expect_death(&at, "after it had said that it was the last");
    attack_clear(&at);
}

static void
test_bombs(void)
{
    Attack at;
    attack_init(&at);
    g_autofree guint8 *zero = g_malloc0(DRV_FRAME_RAW_MAX);
    g_autofree char *packed = g_malloc(DRV_FRAME_RAW_MAX);
    int n = LZ4_compress_default((const char *)zero, packed, (int)DRV_FRAME_RAW_MAX,
                                 (int)DRV_FRAME_RAW_MAX);
    DrvFrameHeader bomb = data_frame(0, zero, 4000); /* announces far less than comes out */
    bomb.codec = DRV_CODEC_LZ4;
    bomb.wire_len = (guint32)n;
    greet(&at);
    send_frame(&at, bomb, packed);
    expect_death(&at, "lz4 data cannot be decoded");

    static const guint8 junk[64] = {0x28, 0xb5, 0x2f, 0xfd, 0xff};
    bomb = data_frame(0, zero, 4000);
    bomb.codec = DRV_CODEC_ZSTD;
    bomb.wire_len = sizeof junk;
    greet(&at);
    send_frame(&at, bomb, junk);
    expect_death(&at, "zstd data cannot be decoded");
    attack_clear(&at);
}

static void
send_ack(Attack *at, guint32 channel, guint64 received, guint64 delivered)
{
    guint8 bytes[DRV_ACK_BYTES];
    drv_ack_encode(&(DrvProgress){channel, received, delivered}, bytes);
    send_frame(at, plain(DRV_FRAME_ACK, bytes, sizeof bytes), bytes);
}

static void
test_acks(void)
{
    Attack at;
    attack_init(&at);
    greet(&at);
    send_ack(&at, 0, 5, 0);
    expect_death(&at, "acknowledged frame 5 of channel 0, of which only 0 were sent");
    greet(&at);
    send_ack(&at, 0, 0, 3);
    expect_death(&at, "malformed ack");
    /* The same in a hello, which says what has arrived as well. */
    for (guint i = 0; i < 2; i++) {
        DrvProgress lie = {0, i == 0 ? 9 : 0, 9};
        g_autoptr(DrvHello) joining = drv_hello_new();
        greet(&at);
        memcpy(joining->session, at.welcome->session, sizeof joining->session);
        memcpy(joining->secret, at.welcome->secret, sizeof joining->secret);
        joining->lane = 1;
        g_array_append_val(joining->progress, lie);
        hang_up(&at);
        tls_connect(&at);
        send_hello(&at, joining);
        expect_death(&at, "acknowledged frame 9 of channel 0, of which only 0 were sent");
    }
    attack_clear(&at);
}

/* What is said to one that never acknowledges it is kept up to a limit. */
static void
test_deaf(void)
{
    Attack at;
    attack_init(&at);
    greet(&at);
    g_autofree guint8 *zero = g_malloc0(DRV_MESSAGE_MAX);
    g_autoptr(GBytes) message = g_bytes_new(zero, DRV_MESSAGE_MAX);
    for (guint i = 0; i < 1000 && at.rig.b.dead == NULL; i++) {
        drv_session_send(at.rig.b.session, message);
        g_main_context_iteration(NULL, FALSE);
    }
    rig_wait(b_dead, &at);
    g_assert_error(at.rig.b.dead, DRV_ERROR, DRV_ERROR_LIMIT);
    g_assert_nonnull(strstr(at.rig.b.dead->message, "mallory does not take what is said to it"));
    expect_hang_up(&at);
    attack_clear(&at);
}

/* Frames and acks of channels that are not open are dropped; a flood of pings is not answered with
 * a flood. The lane lives. */
static void
test_strays(void)
{
    Attack at;
    attack_init(&at);
    greet(&at);
    g_autofree guint8 *big = g_malloc0(DRV_FRAME_RAW_MAX);
    for (guint i = 0; i < 50; i++) {
        DrvFrameHeader stray = data_frame(i, big, DRV_FRAME_RAW_MAX);
        stray.channel = 77 + i;
        send_frame(&at, stray, big);
        send_ack(&at, 77 + i, 9, 9);
        send_frame(&at, plain(DRV_FRAME_PING, NULL, 0), NULL);
    }
    g_autoptr(GByteArray) payload = g_byte_array_new();
    g_assert_cmpint(read_frame(&at, payload), ==, DRV_FRAME_PONG);
    /* A message still gets through. */
    send_frame(&at, data_frame(0, "hello", 5), "hello");
    while (at.rig.b.messages->len == 0)
        g_main_context_iteration(NULL, TRUE);
    g_assert_no_error(at.rig.b.dead);
    send_frame(&at, plain(DRV_FRAME_BYE, NULL, 0), NULL);
    rig_wait(b_dead, &at);
    g_assert_cmpstr(at.rig.b.dead->message, ==, "mallory has ended the session");
    attack_clear(&at);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hostile/versions", test_versions);
    g_test_add_func("/hostile/garbage-greetings", test_garbage_greetings);
    g_test_add_func("/hostile/sessions-of-others", test_sessions_of_others);
    g_test_add_func("/hostile/garbage-frames", test_garbage_frames);
    g_test_add_func("/hostile/data", test_data);
    g_test_add_func("/hostile/bombs", test_bombs);
    g_test_add_func("/hostile/acks", test_acks);
    g_test_add_func("/hostile/deaf", test_deaf);
    g_test_add_func("/hostile/strays", test_strays);
    return g_test_run();
}
