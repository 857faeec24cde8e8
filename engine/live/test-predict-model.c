/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/predict-model.h"

#include "common/json.h"

#define MIB 1048576.0

typedef struct {
    DrvJobSpec *spec;
    DrvVm vm;
    DrvMeasured measured;
} Scene;

/* A guest of 1 GiB, of which a quarter is in use and packs well, on a link of 100 MiB/s. */
static void
begin(Scene *scene)
{
    g_autoptr(GError) error = NULL;
    *scene = (Scene){.vm = {.kvm = TRUE, .running = TRUE, .memory = (guint64)1 << 30}};
    scene->spec = drv_job_spec_parse(
        "{\"qmp\":\"/a\",\"to\":\"h:1\",\"dest_qmp\":\"/b\",\"mode\":\"relay\"}", &error);
    g_assert_no_error(error);
    scene->vm.blocks =
        drv_vm_parse_ramblocks("pc.ram  4 KiB  0x0000000000000000 0x0000000040000000 "
                               "0x0000000040000000\n"
                               "vga  4 KiB  0x0000000040000000 0x0000000001000000 "
                               "0x0000000001000000\n");
    DrvMeasured *m = &scene->measured;
    m->spec = scene->spec;
    m->vm = &scene->vm;
    m->threads = 1;
    m->n_dirty = 2;
    m->dirty[0] = (DrvDirtyRate){DRV_DIRTY_BITMAP, 300, (guint64)(3 * MIB)};
    m->dirty[1] = (DrvDirtyRate){DRV_DIRTY_BITMAP, 1500, (guint64)(4 * MIB)};
    m->sample = (DrvGuestSample){.pages = 4096, .nonzero = 1024, .bytes = 1024 * 4096};
    m->sample.ratio[DRV_CODEC_LZ4] = 2;
    m->sample.ratio[DRV_CODEC_ZSTD] = 3;
    m->sample.speed[DRV_CODEC_LZ4] = 400 * MIB;
    m->sample.speed[DRV_CODEC_ZSTD] = 120 * MIB;
    m->link = (DrvLinkMeasure){.bytes = (guint64)(80 * MIB), .us = 800000, .rtt_us = 500};
    for (guint i = 0; i < 20; i++)
        m->link.rates[m->link.n++] = (100 + (i % 5) - 2) * MIB;
}

static void
finish(Scene *scene)
{
    g_ptr_array_unref(scene->vm.blocks);
    drv_job_spec_free(scene->spec);
}

static void
test_link(void)
{
    DrvLinkMeasure link = {.bytes = 50, .us = G_USEC_PER_SEC};
    DrvRange range = drv_link_range(&link);
    g_assert_cmpfloat(range.likely, ==, 50);
    g_assert_cmpfloat(range.low, <, 50);
    g_assert_cmpfloat(range.high, >, 50);
    for (guint i = 0; i < 20; i++)
        link.rates[link.n++] = i == 7 ? 0 : i == 8 ? 1e12 : 1000 + i;
    range = drv_link_range(&link);
    g_assert_cmpfloat(range.low, ==, 1001); /* what stands out is left out */
    g_assert_cmpfloat(range.likely, ==, 1011);
    g_assert_cmpfloat(range.high, ==, 1018);
    for (guint i = 0; i < 5; i++) /* a host that was busy with other things */
        link.rates[i] = 0;
    link.bytes = 600;
    range = drv_link_range(&link);
    g_assert_cmpfloat(range.low, ==, 200);
    g_assert_cmpfloat(range.likely, >, 1000);
    link = (DrvLinkMeasure){0};
    g_assert_cmpfloat(drv_link_range(&link).high, ==, 0);
}

static void
test_codec(void)
{
    Scene scene;
    DrvPredictInput in;
    DrvCodec codec;
    begin(&scene);
    drv_predict_fill(&scene.measured, &in, &codec);
    /* zstd is too slow for this link, nothing lets half of it go by. */
    g_assert_cmpint(codec, ==, DRV_CODEC_LZ4);
    g_assert_cmpfloat(in.ratio.likely, ==, 2);
    g_assert_cmpfloat(in.ratio_again.likely, ==, 2);
    g_assert_cmpfloat_with_epsilon(in.speed.likely, 400 * MIB, 1);

    scene.spec->bandwidth = (gint64)(10 * MIB);
    drv_predict_fill(&scene.measured, &in, &codec);
    g_assert_cmpint(codec, ==, DRV_CODEC_ZSTD);
    g_assert_cmpfloat(in.link.high, ==, 10 * MIB);

    scene.spec->codec = DRV_SPEC_CODEC_NONE;
    scene.spec->mode = DRV_SPEC_MODE_AUTO;
    drv_predict_fill(&scene.measured, &in, &codec);
    g_assert_cmpint(codec, ==, DRV_CODEC_NONE);
    g_assert_cmpfloat(in.ratio.high, ==, 1);
    g_assert_cmpfloat(in.ratio_again.high, >, 2); /* deltas */
    scene.spec->codec = DRV_SPEC_CODEC_ZSTD;
    scene.measured.sample = (DrvGuestSample){0};
    drv_predict_fill(&scene.measured, &in, &codec);
    g_assert_cmpint(codec, ==, DRV_CODEC_ZSTD);
    g_assert_cmpfloat(in.ratio.low, ==, 1);
    g_assert_cmpfloat(in.ratio.high, >, 2);
    finish(&scene);
}

static void
test_fill(void)
{
    Scene scene;
    DrvPredictInput in;
    DrvCodec codec;
    begin(&scene);
    drv_predict_fill(&scene.measured, &in, &codec);
    g_assert_cmpfloat(in.ram, ==, (1024 + 16) * MIB);
    g_assert_cmpfloat(in.nonzero.likely, ==, 0.25);
    g_assert_cmpfloat(in.nonzero.low, >, 0.2);
    g_assert_cmpfloat(in.nonzero.high, <, 0.3);
    g_assert_cmpuint(in.n_dirty, ==, 2);
    g_assert_cmpfloat(in.dirty[0].seconds, ==, 0.3);
    g_assert_cmpfloat(in.dirty[1].bytes, ==, 4 * MIB);
    g_assert_cmpfloat(in.downtime_ms, ==, 300);
    g_assert_cmpfloat(in.fixed_ms.likely, ==, 32);
    double full = in.trust;
    g_assert_cmpfloat(full, >, 0.9);
    scene.measured.dirty[0].mode = DRV_DIRTY_SAMPLING;
    drv_predict_fill(&scene.measured, &in, &codec);
    g_assert_cmpfloat(in.trust, <, 0.6);
    scene.measured.sample.pages = 0;
    scene.measured.link.n = 0;
    scene.vm.memory = 1 << 20;
    drv_predict_fill(&scene.measured, &in, &codec);
    g_assert_cmpfloat(in.trust, <, 0.15);
    g_assert_cmpfloat(in.nonzero.high, ==, 1);
    finish(&scene);
}

static void
test_result(void)
{
    Scene scene;
    begin(&scene);
    JsonObject *o = drv_predict_result(&scene.measured, "abc", "web1");
    g_assert_cmpstr(drv_json_string(o, "converges", ""), ==, "yes");
    g_assert_cmpstr(drv_json_string(o, "job", ""), ==, "abc");
    g_assert_cmpstr(drv_json_string(o, "vm", ""), ==, "web1");
    g_assert_cmpstr(drv_json_string(o, "state", ""), ==, "completed");
    g_assert_cmpstr(drv_json_string(o, "accel", ""), ==, "kvm");
    g_assert_cmpstr(drv_json_string(o, "codec", ""), ==, "lz4");
    JsonObject *measured = drv_json_object(o, "measured");
    g_autofree char *text = drv_json_text(measured);
    g_assert_cmpstr(text, ==,
                    "{\"dirty\":{\"mode\":\"dirty-bitmap\",\"points\":[{\"ms\":300,\"bytes\":"
                    "3145728},{\"ms\":1500,\"bytes\":4194304}]},\"memory\":{\"pages\":4096,"
                    "\"nonzero\":1024,\"lz4\":{\"ratio\":2.0,\"speed\":419430400},\"zstd\":{"
                    "\"ratio\":3.0,\"speed\":125829120}},\"link\":{\"bytes\":83886080,\"ms\":800,"
                    "\"rtt_us\":500}}");
    json_object_unref(o);

    scene.measured.n_dirty = 0;
    scene.measured.sample = (DrvGuestSample){0};
    scene.vm.running = scene.vm.kvm = FALSE;
    o = drv_predict_result(&scene.measured, "abc", "web1");
    measured = drv_json_object(o, "measured");
    g_assert_true(json_object_get_null_member(measured, "dirty"));
    g_assert_true(json_object_get_null_member(measured, "memory"));
    g_assert_cmpstr(drv_json_string(o, "accel", ""), ==, "tcg");
    g_assert_false(drv_json_flag(o, "running", TRUE));
    json_object_unref(o);
    finish(&scene);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/predict-model/link", test_link);
    g_test_add_func("/predict-model/codec", test_codec);
    g_test_add_func("/predict-model/fill", test_fill);
    g_test_add_func("/predict-model/result", test_result);
    return g_test_run();
}
