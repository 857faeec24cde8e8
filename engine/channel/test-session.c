/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/test-rig.h"

#include <unistd.h>

#define MEG ((gsize)1024 * 1024)

typedef struct {
    guint threads;
    guint lanes;
    DrvCodec codec;
    RigData kind;
} Way;

/* Both directions at once, compared byte for byte; the digests of both ends agree. */
static void
test_both_ways(gconstpointer data)
{
    const Way *way = data;
    Rig rig;
    rig_init(&rig, way->threads, way->lanes, 0);
    rig_connect(&rig, 0);
    rig_wait_lanes(&rig, way->lanes);
    Pipe *pipe = rig_pipe(&rig, way->codec);
    GThread *threads[] = {
        rig_feed(pipe->fd[0], way->kind, 1, 24 * MEG + 17),
        rig_expect(pipe->fd[1], way->kind, 1, 24 * MEG + 17),
        rig_feed(pipe->fd[1], way->kind, 2, 16 * MEG + 1),
        rig_expect(pipe->fd[0], way->kind, 2, 16 * MEG + 1),
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
    g_assert_cmpuint(a.sent.bytes, ==, 24 * MEG + 17);
    g_assert_cmpuint(a.acknowledged, ==, a.sent.bytes);
    g_assert_true(a.sent_all && a.received_all && b.sent_all && b.received_all);
    if (way->kind != RIG_RANDOM && way->codec != DRV_CODEC_NONE)
        g_assert_cmpuint(a.wire_tx, <, a.sent.bytes);
    rig_pipe_free(pipe);
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    static const Way ways[] = {
        {1, 1, DRV_CODEC_NONE, RIG_RANDOM}, {1, 1, DRV_CODEC_LZ4, RIG_TEXT},
        {2, 8, DRV_CODEC_NONE, RIG_RANDOM}, {2, 8, DRV_CODEC_LZ4, RIG_TEXT},
        {2, 8, DRV_CODEC_ZSTD, RIG_TEXT},   {2, 8, DRV_CODEC_AUTO, RIG_TEXT},
        {3, 2, DRV_CODEC_ZSTD, RIG_RANDOM}, {2, 4, DRV_CODEC_LZ4, RIG_ZERO},
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(ways); i++) {
        g_autofree char *name =
            g_strdup_printf("/session/both-ways/%u-threads/%u-lanes/%s/%u", ways[i].threads,
                            ways[i].lanes, drv_codec_name(ways[i].codec), ways[i].kind);
        g_test_add_data_func(name, &ways[i], test_both_ways);
    }
    return g_test_run();
}
