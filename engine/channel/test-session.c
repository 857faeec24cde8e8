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
    /* 'auto' rightly sends loopback's bytes as they are. */
    if (way->kind != RIG_RANDOM && (way->codec == DRV_CODEC_LZ4 || way->codec == DRV_CODEC_ZSTD))
        g_assert_cmpuint(a.wire_tx, <, a.sent.bytes);
    rig_pipe_free(pipe);
    rig_clear(&rig);
}

/* --- a name with several addresses --- */

typedef struct {
    GResolver parent;
} OddResolver;

typedef struct {
    GResolverClass parent;
} OddResolverClass;

static GType odd_resolver_get_type(void);
G_DEFINE_TYPE(OddResolver, odd_resolver, G_TYPE_RESOLVER)

static void
odd_lookup(GResolver *resolver, const char *name, GCancellable *cancellable,
           GAsyncReadyCallback callback, gpointer data)
{
    g_autoptr(GTask) task = g_task_new(resolver, cancellable, callback, data);
    g_task_return_pointer(task, g_strdup(name), g_free);
}

/* Nobody listens on the first. */
static GList *
odd_lookup_finish(GResolver *resolver, GAsyncResult *result, GError **error)
{
    g_autofree char *name = g_task_propagate_pointer(G_TASK(result), error);
    GList *list = g_list_append(NULL, g_inet_address_new_from_string("127.0.0.2"));
    g_assert_cmpstr(name, ==, "localhost");
    return g_list_append(list, g_inet_address_new_from_string("127.0.0.1"));
}

static void
odd_resolver_class_init(OddResolverClass *class)
{
    class->parent.lookup_by_name_async = odd_lookup;
    class->parent.lookup_by_name_finish = odd_lookup_finish;
}

static void
odd_resolver_init(OddResolver *self)
{
}

/* The second address is tried when nobody listens on the first. */
static void
test_addresses(void)
{
    Rig rig;
    g_autoptr(GResolver) usual = g_resolver_get_default();
    g_autoptr(GResolver) odd = g_object_new(odd_resolver_get_type(), NULL);
    rig_init(&rig, 1, 1, 0);
    g_resolver_set_default(odd);
    rig_connect_host(&rig, "localhost", 0);
    g_resolver_set_default(usual);
    rig_clear(&rig);
}

/* What a peer calls itself is never taken for its name: names are what things are allowed to. */
static void
test_nameless(void)
{
    const DrvTransferConfig liar = {.threads = 1, .name = "alpha"};
    const char *names[2];
    Rig rig;
    rig_init_with(&rig, &liar, &liar, 1);
    rig_connect(&rig, 0);
    names[0] = drv_session_peer_name(rig.a.session);
    names[1] = drv_session_peer_name(rig.b.session);
    for (guint i = 0; i < 2; i++)
        g_assert_true(g_str_has_prefix(names[i], "a host without a name, certificate "));
    g_assert_cmpstr(names[0], !=, names[1]); /* nor does one such host own another's jobs */
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
    g_test_add_func("/session/addresses", test_addresses);
    g_test_add_func("/session/nameless", test_nameless);
    return g_test_run();
}
