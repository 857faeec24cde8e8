/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/predict-model.h"

#include "dirty-tracking/to-json.h"

#include <math.h>
#include <stdlib.h>

/* What is not measured here. Guest bytes a second that QEMU's one thread writes into its stream,
 * and that the destination takes: */
#define STREAM_SPEED ((DrvRange){500e6, 900e6, 1800e6})
/* Device state, the last messages, `cont`: */
#define FIXED_MS ((DrvRange){10, 30, 120})
/* How a guest's memory is where nobody could look: */
#define UNKNOWN_NONZERO ((DrvRange){0.2, 0.6, 1})
#define UNKNOWN_RATIO ((DrvRange){1, 1.5, 3})

/* --- the link --- */

static int
by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

DrvRange
drv_link_range(const DrvLinkMeasure *link)
{
    double sorted[DRV_LINK_RATES];
    guint n = MIN(link->n, DRV_LINK_RATES);
    double mean = link->us > 0 ? (double)link->bytes * G_USEC_PER_SEC / (double)link->us : 0;
    if (n < 3)
        return (DrvRange){mean * 0.6, mean, mean * 1.3};
    for (guint i = 0; i < n; i++)
        sorted[i] = link->rates[i];
    qsort(sorted, n, sizeof *sorted, by_size);
    /* A step in which hardly anything arrived is a busy host's; a migration lasts longer. */
    double least = MIN(MAX(sorted[n / 10], mean / 3), sorted[n / 2]);
    return (DrvRange){least, sorted[n / 2], sorted[n - 1 - n / 10]};
}

static DrvRange
within(DrvRange range, double most)
{
    return (DrvRange){MIN(range.low, most), MIN(range.likely, most), MIN(range.high, most)};
}

static DrvRange
times(double value, double low, double high)
{
    return (DrvRange){value * low, value, value * high};
}

/* --- the codec --- */

static double
ratio_of(const DrvMeasured *m, DrvCodec codec)
{
    return codec == DRV_CODEC_NONE ? 1 : MAX(m->sample.ratio[codec], 1);
}

static double
speed_of(const DrvMeasured *m, DrvCodec codec)
{
    const DrvRange stream = STREAM_SPEED;
    double packing = m->sample.speed[codec] * MAX(m->threads, 1);
    return codec == DRV_CODEC_NONE || packing <= 0 ? stream.likely : MIN(stream.likely, packing);
}

/* Guest bytes a second; between equals the first, which costs less, is taken. */
static DrvCodec
best_codec(const DrvMeasured *m, double link)
{
    DrvCodec best = DRV_CODEC_NONE;
    double most = 0;
    for (DrvCodec codec = DRV_CODEC_NONE; codec < DRV_CODEC_COUNT; codec++) {
        double rate = MIN(link * ratio_of(m, codec), speed_of(m, codec));
        if (rate > most * 1.02) {
            most = rate;
            best = codec;
        }
    }
    return best;
}

static DrvCodec
codec_of(const DrvMeasured *m, double link)
{
    switch (m->spec->codec) {
    case DRV_SPEC_CODEC_NONE:
        return DRV_CODEC_NONE;
    case DRV_SPEC_CODEC_LZ4:
        return DRV_CODEC_LZ4;
    case DRV_SPEC_CODEC_ZSTD:
        return DRV_CODEC_ZSTD;
    default:
        return best_codec(m, link);
    }
}

static void
fill_codec(const DrvMeasured *m, DrvPredictInput *in, DrvCodec codec)
{
    const DrvRange stream = STREAM_SPEED;
    double share = speed_of(m, codec) / stream.likely;
    gboolean deltas = m->spec->mode != DRV_SPEC_MODE_RELAY;
    in->ratio = m->sample.bytes == 0 && codec != DRV_CODEC_NONE
                    ? UNKNOWN_RATIO
                    : times(ratio_of(m, codec), 0.8, 1.25);
    if (codec == DRV_CODEC_NONE)
        in->ratio = times(1, 1, 1);
    in->ratio_again = in->ratio;
    /* Whether only little of a page changes, nobody knows before it is sent twice. */
    if (deltas) {
        in->ratio_again.likely *= 1.5;
        in->ratio_again.high *= 6;
    }
    in->speed = (DrvRange){stream.low * share, stream.likely * share, stream.high * share};
}

/* --- all of it --- */

static double
ram_of(const DrvVm *vm)
{
    double sum = 0;
    for (guint i = 0; i < vm->blocks->len; i++)
        sum += (double)((const DrvVmBlock *)vm->blocks->pdata[i])->size;
    return MAX(sum, (double)vm->memory);
}

/* The share found, give or take twice what such a sample errs by. Neighbours are alike, so that it
 * is the runs that count. */
static DrvRange
nonzero_of(const DrvGuestSample *sample)
{
    if (sample->pages == 0)
        return UNKNOWN_NONZERO;
    double share = (double)sample->nonzero / (double)sample->pages;
    double error = 2 * sqrt(share * (1 - share) / MAX((double)sample->pages / 8, 1)) + 0.005;
    return (DrvRange){MAX(share - error, 0), share, MIN(share + error, 1)};
}

/* How much of what goes into the model was measured, and how well. */
static double
trust_in(const DrvMeasured *m)
{
    double trust = 0.95;
    if (m->n_dirty > 0 && m->dirty[0].mode == DRV_DIRTY_SAMPLING)
        trust *= m->vm->memory < ((guint64)128 << 20) ? 0.2 : 0.5;
    if (m->sample.pages == 0)
        trust *= 0.8;
    if (m->link.n < 3)
        trust *= 0.8;
    return trust;
}

void
drv_predict_fill(const DrvMeasured *m, DrvPredictInput *in, DrvCodec *codec)
{
    const double limit = m->spec->bandwidth > 0 ? (double)m->spec->bandwidth : INFINITY;
    const DrvRange fixed = FIXED_MS;
    double trips = 4 * (double)m->link.rtt_us / 1000;
    *in = (DrvPredictInput){
        .ram = ram_of(m->vm),
        .nonzero = nonzero_of(&m->sample),
        .n_dirty = m->n_dirty,
        .dirty_factor = DRV_PREDICT_DIRTY_FACTOR,
        .link = within(drv_link_range(&m->link), limit),
        .fixed_ms = {fixed.low + trips, fixed.likely + trips, fixed.high + trips},
        .downtime_ms = (double)m->spec->downtime_ms,
        .trust = trust_in(m),
    };
    for (guint i = 0; i < m->n_dirty; i++)
        in->dirty[i] = (DrvDirtyPoint){m->dirty[i].ms / 1000.0, (double)m->dirty[i].bytes};
    *codec = codec_of(m, in->link.likely);
    fill_codec(m, in, *codec);
}

/* --- in JSON --- */

static void
set_dirty(JsonObject *o, const DrvMeasured *m)
{
    if (m->n_dirty == 0) {
        json_object_set_null_member(o, "dirty");
        return;
    }
    JsonObject *dirty = json_object_new();
    JsonArray *points = json_array_new();
    for (guint i = 0; i < m->n_dirty; i++) {
        JsonObject *point = json_object_new();
        json_object_set_int_member(point, "ms", m->dirty[i].ms);
        json_object_set_int_member(point, "bytes", (gint64)m->dirty[i].bytes);
        json_array_add_object_element(points, point);
    }
    json_object_set_string_member(dirty, "mode", drv_dirty_mode_name(m->dirty[0].mode));
    json_object_set_array_member(dirty, "points", points);
    json_object_set_object_member(o, "dirty", dirty);
}

static void
set_memory(JsonObject *o, const DrvGuestSample *sample)
{
    if (sample->pages == 0) {
        json_object_set_null_member(o, "memory");
        return;
    }
    JsonObject *memory = json_object_new();
    json_object_set_int_member(memory, "pages", (gint64)sample->pages);
    json_object_set_int_member(memory, "nonzero", (gint64)sample->nonzero);
    for (DrvCodec codec = DRV_CODEC_LZ4; codec < DRV_CODEC_COUNT; codec++) {
        if (sample->bytes == 0)
            continue;
        JsonObject *packed = json_object_new();
        json_object_set_double_member(packed, "ratio", round(sample->ratio[codec] * 1000) / 1000);
        json_object_set_int_member(packed, "speed", (gint64)sample->speed[codec]);
        json_object_set_object_member(memory, drv_codec_name(codec), packed);
    }
    json_object_set_object_member(o, "memory", memory);
}

static void
set_link(JsonObject *o, const DrvLinkMeasure *link)
{
    JsonObject *object = json_object_new();
    json_object_set_int_member(object, "bytes", (gint64)link->bytes);
    json_object_set_int_member(object, "ms", link->us / 1000);
    json_object_set_int_member(object, "rtt_us", link->rtt_us);
    json_object_set_object_member(o, "link", object);
}

JsonObject *
drv_predict_result(const DrvMeasured *m, const char *id, const char *vm)
{
    DrvPredictInput in;
    DrvPrediction prediction;
    DrvCodec codec;
    drv_predict_fill(m, &in, &codec);
    drv_predict(&in, &prediction);
    JsonObject *o = drv_prediction_to_json(&in, &prediction);
    JsonObject *measured = json_object_new();
    set_dirty(measured, m);
    set_memory(measured, &m->sample);
    set_link(measured, &m->link);
    json_object_set_string_member(o, "job", id);
    json_object_set_string_member(o, "vm", vm);
    json_object_set_string_member(o, "state", "completed");
    json_object_set_null_member(o, "error");
    json_object_set_string_member(o, "accel", m->vm->kvm ? "kvm" : "tcg");
    json_object_set_boolean_member(o, "running", m->vm->running);
    json_object_set_string_member(o, "codec", drv_codec_name(codec));
    json_object_set_object_member(o, "measured", measured);
    return o;
}
