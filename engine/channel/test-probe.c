/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "common/json.h"
#include "engine/channel/probe.h"
#include "engine/channel/test-rig.h"

#include <string.h>

#define MEG ((guint64)1024 * 1024)

typedef struct {
    DrvProbe *probe;
    guint ended;
} End;

typedef struct {
    Rig rig;
    End near, far;
} Scene;

static void
changed(DrvProbe *probe, gpointer data)
{
    End *end = data;
    g_assert_true(end->probe == probe);
    end->ended++;
}

static void
begin(Scene *scene, guint lanes)
{
    *scene = (Scene){0};
    rig_init(&scene->rig, 2, lanes, 0);
    rig_connect(&scene->rig, 0);
}

/* What the two daemons would tell each other. */
static void
open_both(Scene *scene, guint64 bytes)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) args = json_object_new();
    JsonObject *ok = NULL;
    scene->near.probe = drv_probe_offer(scene->rig.a.transfer, scene->rig.a.session, bytes, changed,
                                        &scene->near, args, &error);
    g_assert_no_error(error);
    scene->far.probe = drv_probe_accept(scene->rig.b.transfer, scene->rig.b.session, args, changed,
                                        &scene->far, &ok, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(drv_probe_delivered(scene->near.probe), ==, 0);
    g_assert_true(drv_probe_accepted(scene->near.probe, ok, &error));
    json_object_unref(ok);
}

static void
finish(Scene *scene)
{
    drv_probe_free(scene->near.probe);
    drv_probe_free(scene->far.probe);
    rig_clear(&scene->rig);
}

static gboolean
both_ended(gpointer data)
{
    Scene *scene = data;
    return scene->near.ended > 0 && scene->far.ended > 0;
}

/* All of it arrives, uncompressed; then both ends are over, and know of nothing bad. */
static void
test_all(void)
{
    static const guint64 sizes[] = {1, 128 * 1024, 40 * MEG + 5};
    for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
        Scene scene;
        begin(&scene, 2);
        open_both(&scene, sizes[i]);
        rig_wait(both_ended, &scene);
        g_assert_cmpuint(drv_probe_delivered(scene.near.probe), ==, sizes[i]);
        g_assert_no_error(drv_probe_error(scene.near.probe));
        g_assert_no_error(drv_probe_error(scene.far.probe));
        DrvSessionStats stats;
        drv_session_get_stats(scene.rig.a.session, &stats);
        g_assert_cmpuint(stats.wire, >, sizes[i]);
        finish(&scene);
    }
}

static gboolean
under_way(gpointer data)
{
    return drv_probe_delivered(((Scene *)data)->near.probe) > 4 * MEG;
}

/* It can be ended long before all is sent. */
static void
test_end_early(void)
{
    Scene scene;
    const guint64 much = G_GUINT64_CONSTANT(1) << 50;
    begin(&scene, 1);
    open_both(&scene, much);
    rig_wait(under_way, &scene);
    g_assert_cmpuint(scene.near.ended, ==, 0);
    drv_probe_end(scene.near.probe);
    rig_wait(both_ended, &scene);
    g_assert_no_error(drv_probe_error(scene.near.probe));
    g_assert_cmpuint(drv_probe_delivered(scene.near.probe), <, much);
    finish(&scene);
}

/* Freed in full flow: nothing is left behind (the rig checks the pools). */
static void
test_free(void)
{
    Scene scene;
    begin(&scene, 2);
    open_both(&scene, G_GUINT64_CONSTANT(1) << 50);
    rig_wait(under_way, &scene);
    g_clear_pointer(&scene.near.probe, drv_probe_free);
    finish(&scene);
}

static gboolean
near_ended(gpointer data)
{
    return ((Scene *)data)->near.ended > 0;
}

static void
test_session_lost(void)
{
    Scene scene;
    begin(&scene, 1);
    open_both(&scene, G_GUINT64_CONSTANT(1) << 50);
    rig_wait(under_way, &scene);
    g_autoptr(GError) why = g_error_new_literal(DRV_ERROR, DRV_ERROR_IO, "for a test");
    drv_session_fail(scene.rig.a.session, why);
    rig_wait(near_ended, &scene);
    g_assert_nonnull(drv_probe_error(scene.near.probe));
    g_assert_nonnull(strstr(drv_probe_error(scene.near.probe)->message, "for a test"));
    finish(&scene);
}

static void
assert_refused(Scene *scene, const char *call, gint code, const char *words)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) args = drv_json_parse_object(call, strlen(call), NULL);
    JsonObject *ok = NULL;
    g_assert_null(drv_probe_accept(scene->rig.b.transfer, scene->rig.b.session, args, changed,
                                   &scene->far, &ok, &error));
    g_assert_null(ok);
    g_assert_error(error, DRV_ERROR, code);
    g_assert_cmpstr(error->message, ==, words);
}

static void
test_bad_peer(void)
{
    Scene scene;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) ok = json_object_new();
    g_autoptr(JsonObject) args = json_object_new();
    begin(&scene, 1);
    assert_refused(&scene, "{}", DRV_ERROR_PROTOCOL, "the peer offers a credit of 0 frames");
    assert_refused(&scene, "{\"credit\":9999,\"channel\":1}", DRV_ERROR_PROTOCOL,
                   "the peer offers a credit of 9999 frames");
    assert_refused(&scene, "{\"credit\":8}", DRV_ERROR_PROTOCOL, "the peer may not open channel 0");
    assert_refused(&scene, "{\"credit\":8,\"channel\":99999999999}", DRV_ERROR_PROTOCOL,
                   "the peer may not open channel 99999999999");
    scene.near.probe = drv_probe_offer(scene.rig.a.transfer, scene.rig.a.session, 1, changed,
                                       &scene.near, args, &error);
    g_assert_no_error(error);
    g_assert_false(drv_probe_accepted(scene.near.probe, ok, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    finish(&scene);
}

static void
test_no_buffers(void)
{
    Scene scene;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) args = json_object_new();
    begin(&scene, 1);
    DrvPool *pool = drv_transfer_pool(scene.rig.a.transfer);
    DrvShare *share = drv_session_share(scene.rig.a.session);
    guint taken = 0, more;
    while ((more = drv_pool_reserve(pool, share, G_MAXUINT, 1)) > 0)
        taken += more;
    g_assert_null(drv_probe_offer(scene.rig.a.transfer, scene.rig.a.session, 1, changed,
                                  &scene.near, args, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_LIMIT);
    drv_pool_unreserve(pool, share, taken);
    drv_session_close(scene.rig.a.session);
    g_clear_error(&error);
    g_assert_null(drv_probe_offer(scene.rig.a.transfer, scene.rig.a.session, 1, changed,
                                  &scene.near, args, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_STATE);
    finish(&scene);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/probe/all", test_all);
    g_test_add_func("/probe/end-early", test_end_early);
    g_test_add_func("/probe/free", test_free);
    g_test_add_func("/probe/session-lost", test_session_lost);
    g_test_add_func("/probe/bad-peer", test_bad_peer);
    g_test_add_func("/probe/no-buffers", test_no_buffers);
    return g_test_run();
}
