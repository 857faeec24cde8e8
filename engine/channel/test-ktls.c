/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/test-relay.h"
#include "engine/channel/test-rig.h"
#include "engine/channel/test-sealer.h"
#include "engine/transfer/test-seal.h"

#include <errno.h>
#include <string.h>

#define MEG ((gsize)1024 * 1024)

/* Sessions whose lanes leave the sealing to the kernel: to one that has TLS, where there is one,
 * and to a relay that does its work, everywhere. */

typedef gboolean (*Send)(int fd, const DrvKtlsKey *key);

typedef struct {
    Rig rig;
    TestSealer *sealer[2]; /* a's and b's; NULL with the real kernel */
    TestRelay *relay;      /* between them */
} Scene;

static void
scene_init(Scene *scene, gboolean real, const DrvTransferConfig *a, const DrvTransferConfig *b,
           guint lanes)
{
    rig_init_with(&scene->rig, a, b, lanes);
    scene->sealer[1] = real ? NULL : test_sealer_new(scene->rig.port);
    scene->relay = test_relay_new(real ? scene->rig.port : test_sealer_port(scene->sealer[1]));
    scene->sealer[0] = real ? NULL : test_sealer_new(test_relay_port(scene->relay));
}

static void
scene_connect(Scene *scene)
{
    rig_connect(&scene->rig, scene->sealer[0] != NULL ? test_sealer_port(scene->sealer[0])
                                                      : test_relay_port(scene->relay));
}

static void
scene_clear(Scene *scene)
{
    rig_clear(&scene->rig);
    g_clear_pointer(&scene->sealer[0], test_sealer_free);
    test_relay_free(scene->relay);
    g_clear_pointer(&scene->sealer[1], test_sealer_free);
}

/* Both directions at once, byte for byte. */
static void
carry(Rig *rig, DrvCodec codec, RigData kind, gsize forth, gsize back)
{
    Pipe *pipe = rig_pipe(rig, codec);
    GThread *threads[] = {
        rig_feed(pipe->fd[0], kind, 1, forth),
        rig_expect(pipe->fd[1], kind, 1, forth),
        rig_feed(pipe->fd[1], kind, 2, back),
        rig_expect(pipe->fd[0], kind, 2, back),
    };
    rig_join(threads, G_N_ELEMENTS(threads));
    rig_wait(rig_pipe_finished, pipe);
    g_assert_no_error(pipe->error[0]);
    g_assert_no_error(pipe->error[1]);
    DrvChannelStats a, b;
    drv_channel_get_stats(pipe->channel[0], &a);
    drv_channel_get_stats(pipe->channel[1], &b);
    g_assert_true(drv_digest_equal(&a.sent, &b.received));
    g_assert_true(drv_digest_equal(&b.sent, &a.received));
    rig_pipe_free(pipe);
}

static void
expect_wanted(const Rig *rig, gboolean a, gboolean b)
{
    g_assert_cmpint(drv_transfer_ktls_wanted(rig->a.transfer), ==, a);
    g_assert_cmpint(drv_transfer_ktls_wanted(rig->b.transfer), ==, b);
}

static gboolean
skips(gboolean real)
{
    if (!real || test_kernel_has_tls())
        return FALSE;
    g_test_skip("NOT TESTED: this kernel has no TLS (CONFIG_TLS, module 'tls')");
    return TRUE;
}

/* --- what is logged --- */

/* Counts the lines that say so, in the stead of what prints them and ends the test at a warning. */
typedef struct {
    const char *says;
    gint count; /* atomic */
    GLogFunc usual;
    GLogLevelFlags fatal;
} Log;

static void
count_line(const char *domain, GLogLevelFlags level, const char *message, gpointer data)
{
    Log *log = data;
    if (strstr(message, log->says) != NULL)
        g_atomic_int_inc(&log->count);
}

static void
log_begin(Log *log, const char *says)
{
    *log = (Log){.says = says};
    log->usual = g_log_set_default_handler(count_line, log);
    log->fatal = g_log_set_always_fatal(G_LOG_LEVEL_CRITICAL | G_LOG_FATAL_MASK);
}

static guint
log_end(Log *log)
{
    g_log_set_always_fatal(log->fatal);
    g_log_set_default_handler(log->usual, NULL);
    return (guint)g_atomic_int_get(&log->count);
}

/* --- where the kernel has it, and where not --- */

static gboolean
refuse(int fd, const DrvKtlsKey *key)
{
    errno = ENOENT;
    return FALSE;
}

/* A kernel that cannot is asked once, and all goes on without it. */
static void
test_absent(void)
{
    Rig rig;
    Log log;
    DrvTransferConfig config = {.threads = 2, .kernel_tls = TRUE, .ktls_send = refuse};
    log_begin(&log, "this kernel does not take over TLS (No such file or directory)");
    rig_init_with(&rig, &config, &config, 4);
    rig_connect(&rig, 0);
    rig_wait_lanes(&rig, 4);
    expect_wanted(&rig, FALSE, FALSE);
    carry(&rig, DRV_CODEC_LZ4, RIG_TEXT, 4 * MEG, 3 * MEG);
    rig_clear(&rig);
    g_assert_cmpuint(log_end(&log), ==, 2); /* one of each daemon */
}

/* 'auto' on this machine, whichever it is. */
static void
test_detect(void)
{
    Rig rig;
    Log log;
    DrvTransferConfig config = {.threads = 2, .kernel_tls = TRUE};
    gboolean has = test_kernel_has_tls();
    log_begin(&log, "this kernel does not take over TLS");
    rig_init_with(&rig, &config, &config, 4);
    rig_connect(&rig, 0);
    rig_wait_lanes(&rig, 4);
    expect_wanted(&rig, has, has);
    carry(&rig, DRV_CODEC_NONE, RIG_RANDOM, 4 * MEG, 3 * MEG);
    expect_wanted(&rig, has, has);
    rig_clear(&rig);
    g_assert_cmpuint(log_end(&log), ==, has ? 0 : 2);
}

/* --- data --- */

typedef struct {
    gboolean real;
    gboolean side[2]; /* a's and b's kernels seal */
    guint lanes;
    guint cuts;
} Way;

static void
test_carries(gconstpointer data)
{
    const Way *way = data;
    Scene scene;
    DrvTransferConfig config[2];
    if (skips(way->real))
        return;
    for (guint i = 0; i < 2; i++)
        config[i] = (DrvTransferConfig){.threads = 2,
                                        .kernel_tls = way->side[i],
                                        .ktls_send = way->real ? NULL : test_sealer_take};
    scene_init(&scene, way->real, &config[0], &config[1], way->lanes);
    scene_connect(&scene);
    rig_wait_lanes(&scene.rig, way->lanes);
    guint before = test_relay_cuts(scene.relay);
    if (way->cuts > 0) {
        test_relay_storm(scene.relay, 7, way->cuts);
        test_relay_cut(scene.relay);
    }
    /* A kernel that has it runs on an emulated CPU, where a megabyte takes a tenth of a second; but
     * a storm needs bytes to cut. */
    gsize unit = way->real && way->cuts == 0 ? MEG / 4 : MEG;
    carry(&scene.rig, DRV_CODEC_NONE, RIG_RANDOM, 12 * unit + 5, 8 * unit);
    carry(&scene.rig, DRV_CODEC_LZ4, RIG_TEXT, 6 * unit, 5 * unit + 3);
    if (way->cuts > 0)
        g_assert_cmpuint(test_relay_cuts(scene.relay), >, before + 5);
    g_assert_no_error(scene.rig.a.dead);
    g_assert_no_error(scene.rig.b.dead);
    expect_wanted(&scene.rig, way->side[0], way->side[1]);
    for (guint i = 0; i < 2 && !way->real; i++) {
        if (way->side[i])
            g_assert_cmpuint(test_sealer_records(scene.sealer[i]), >, 100);
        else
            g_assert_cmpuint(test_sealer_records(scene.sealer[i]), ==, 0);
    }
    scene_clear(&scene);
}

/* --- keys wear out --- */

/* With a kernel's key the lane goes and another comes; OpenSSL changes its key. */
static void
test_worn_out(gconstpointer data)
{
    enum { FAKE, REAL, OPENSSL } who = GPOINTER_TO_INT(data);
    Scene scene;
    DrvSessionStats stats;
    DrvTransferConfig config = {.threads = 2,
                                .rekey_bytes = MEG / 4,
                                .kernel_tls = who != OPENSSL,
                                .ktls_send = who == FAKE ? test_sealer_take : NULL};
    if (skips(who == REAL))
        return;
    scene_init(&scene, who == REAL, &config, &config, 2);
    scene_connect(&scene);
    rig_wait_lanes(&scene.rig, 2);
    carry(&scene.rig, DRV_CODEC_NONE, RIG_RANDOM, 2 * MEG, 2 * MEG);
    drv_session_get_stats(scene.rig.a.session, &stats);
    if (who == OPENSSL)
        g_assert_cmpuint(stats.reconnects, ==, 0);
    else
        g_assert_cmpuint(stats.reconnects, >, 8);
    g_assert_no_error(scene.rig.a.dead);
    g_assert_no_error(scene.rig.b.dead);
    expect_wanted(&scene.rig, who != OPENSSL, who != OPENSSL);
    scene_clear(&scene);
}

/* --- kernels that do it wrong --- */

typedef enum { OFF, GOOD, BAD } Kernel;

typedef struct {
    gboolean real;
    Kernel kernel[2];
} Guard;

static gboolean
spoil(int fd, const DrvKtlsKey *key)
{
    DrvKtlsKey wrong = *key;
    wrong.aes128.key[3] ^= 1;
    return drv_ktls_send(fd, &wrong);
}

/* What one end cannot read of the other switches kernel TLS off, and the session comes about all
 * the same. */
static void
test_guard(gconstpointer data)
{
    const Guard *guard = data;
    Scene scene;
    DrvTransferConfig config[2];
    Log log;
    guint wrong = 0;
    if (skips(guard->real))
        return;
    for (guint i = 0; i < 2; i++) {
        Send sends[] = {
            [GOOD] = guard->real ? drv_ktls_send : test_sealer_take,
            [BAD] = guard->real ? spoil : test_sealer_take_wrong,
        };
        config[i] = (DrvTransferConfig){
            .threads = 1,
            .kernel_tls = guard->kernel[i] != OFF,
            .ktls_send = sends[guard->kernel[i]],
        };
        wrong += guard->kernel[i] == BAD;
    }
    log_begin(&log, "kernel TLS is switched off until droverd is restarted");
    scene_init(&scene, guard->real, &config[0], &config[1], 2);
    scene_connect(&scene);
    rig_wait_lanes(&scene.rig, 2);
    carry(&scene.rig, DRV_CODEC_NONE, RIG_RANDOM, 2 * MEG, 2 * MEG);
    g_assert_no_error(scene.rig.a.dead);
    for (guint i = 0; i < 2; i++) {
        if (guard->kernel[i] == BAD)
            g_assert_false(
                drv_transfer_ktls_wanted(i == 0 ? scene.rig.a.transfer : scene.rig.b.transfer));
    }
    scene_clear(&scene);
    guint warnings = log_end(&log);
    g_assert_cmpuint(warnings, >=, wrong);
    g_assert_cmpuint(warnings, <=, 2);
}

static void
add_carries(void)
{
    static const Way ways[] = {
        {FALSE, {TRUE, TRUE}, 1, 0},  {FALSE, {TRUE, FALSE}, 3, 0}, {FALSE, {FALSE, TRUE}, 3, 0},
        {FALSE, {TRUE, TRUE}, 4, 30}, {TRUE, {TRUE, TRUE}, 1, 0},   {TRUE, {TRUE, FALSE}, 3, 0},
        {TRUE, {FALSE, TRUE}, 3, 0},  {TRUE, {TRUE, TRUE}, 4, 15},
    };
    for (guint i = 0; i < G_N_ELEMENTS(ways); i++) {
        g_autofree char *name = g_strdup_printf(
            "/ktls/carries/%s/%s%s-%u-lanes-%u-cuts", ways[i].real ? "kernel" : "fake",
            ways[i].side[0] ? "a" : "", ways[i].side[1] ? "b" : "", ways[i].lanes, ways[i].cuts);
        g_test_add_data_func(name, &ways[i], test_carries);
    }
}

static void
add_guards(void)
{
    static const char *const words[] = {"off", "good", "bad"};
    /* A fake's alerts are none, so that there one end at most is told by one. */
    static const Guard guards[] = {
        {FALSE, {BAD, OFF}}, {FALSE, {OFF, BAD}}, {FALSE, {BAD, BAD}}, {TRUE, {BAD, OFF}},
        {TRUE, {OFF, BAD}},  {TRUE, {BAD, BAD}},  {TRUE, {BAD, GOOD}}, {TRUE, {GOOD, BAD}},
    };
    for (guint i = 0; i < G_N_ELEMENTS(guards); i++) {
        g_autofree char *name =
            g_strdup_printf("/ktls/guard/%s/%s-%s", guards[i].real ? "kernel" : "fake",
                            words[guards[i].kernel[0]], words[guards[i].kernel[1]]);
        g_test_add_data_func(name, &guards[i], test_guard);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ktls/absent", test_absent);
    g_test_add_func("/ktls/detect", test_detect);
    add_carries();
    g_test_add_data_func("/ktls/worn-out/fake", GINT_TO_POINTER(0), test_worn_out);
    g_test_add_data_func("/ktls/worn-out/kernel", GINT_TO_POINTER(1), test_worn_out);
    g_test_add_data_func("/ktls/worn-out/openssl", GINT_TO_POINTER(2), test_worn_out);
    add_guards();
    return g_test_run();
}
