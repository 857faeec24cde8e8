/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/predict.h"

#include "dirty-tracking/words-private.h"

#include <math.h>

/*
 * A migration is played through: the first round takes as long as all that is not zero takes; a
 * round brings what the guest wrote to during the one before; it ends when what is left can be
 * brought within the downtime limit, or goes on for ever when that does not get less.
 *
 * What the guest writes to in t seconds, D(t), is the heart of it, and is no straight line: most
 * guests write to the same pages again. It is measured for one or a few times; between two of them
 * it is taken to be a power of t, which in a log-log plot is a straight line, and so on outside:
 *
 *      log D |             .-- at most as steep as between the last two points
 *            |         o--´--- or level: no new pages at all
 *            |    .-o´
 *            |. ´ /    at most as steep as t itself (each write hits a new page),
 *            |   /     at least as the first two points
 *            +--------------- log t
 *
 * With one point both ends lie between level and t itself: that makes an answer that is unsure.
 * A guest that writes f times as fast as measured has D(f t), which keeps what is level level.
 *
 * All values are ranges. The model is run for every combination of their three values, each weighed
 * as DrvRange says; the answers are what share of them converges, and quantiles.
 */

#define MAX_ROUNDS 60
/* QEMU looks at zero pages, and says so in 9 bytes; in bytes a second. */
#define ZERO_SPEED 4e9
/* Less than this much less than in the best round so far is no progress. */
#define PROGRESS 0.98
#define PATIENCE 4
/* Shares of the cases beyond which the verdict is clear. */
#define CLEAR 0.85

static const double weights[3] = {0.25, 0.5, 0.25};

/* --- what the guest writes --- */

static double
mix(double least, double most, double bend)
{
    return least + (most - least) * bend;
}

/* The steepness between two points in the log-log plot. */
static double
slope(const DrvDirtyPoint *a, const DrvDirtyPoint *b)
{
    if (a->bytes <= 0)
        return 1;
    return CLAMP(log(b->bytes / a->bytes) / log(b->seconds / a->seconds), 0, 1);
}

static double
along(const DrvDirtyPoint *from, double seconds, double steepness)
{
    return from->bytes * pow(seconds / from->seconds, steepness);
}

double
drv_predict_dirtied(const DrvPredictInput *in, double seconds, double bend)
{
    guint n = MIN(in->n_dirty, DRV_PREDICT_POINTS);
    double most = in->working_set > 0 ? MIN(in->working_set, in->ram) : in->ram;
    double bytes;
    if (n == 0 || !(seconds > 0))
        return 0;
    const DrvDirtyPoint *first = &in->dirty[0], *last = &in->dirty[n - 1];
    if (seconds <= first->seconds) {
        /* The flatter the way down to no time, the more is written at once. */
        double flattest = n > 1 ? slope(&in->dirty[0], &in->dirty[1]) : 0;
        bytes = along(first, seconds, mix(1, flattest, bend));
    } else if (seconds >= last->seconds) {
        double steepest = n > 1 ? slope(&in->dirty[n - 2], last) : 1;
        bytes = along(last, seconds, mix(0, steepest, bend));
    } else {
        guint i = 1;
        while (in->dirty[i].seconds < seconds)
            i++;
        bytes = along(&in->dirty[i], seconds, slope(&in->dirty[i - 1], &in->dirty[i]));
    }
    return MIN(bytes, most);
}

/* --- one case --- */

typedef struct {
    double weight;
    gboolean converges;
    double total_ms;
    double downtime_ms;
    double rounds;
    double needed_ms;
} Case;

typedef struct {
    double link, ratio, ratio_again, speed, nonzero, factor, bend, fixed_ms;
} Values;

/* The first round's seconds. */
static double
first_round(const DrvPredictInput *in, const Values *v)
{
    double rate = MIN(v->link * v->ratio, v->speed);
    return in->ram * v->nonzero / rate + in->ram * (1 - v->nonzero) / ZERO_SPEED;
}

static void
play(const DrvPredictInput *in, const Values *v, Case *out)
{
    double rate = MIN(v->link * v->ratio_again, v->speed);
    double seconds = first_round(in, v);
    double total = seconds, best = INFINITY;
    guint round = 1, idle = 0;
    for (; round < MAX_ROUNDS; round++) {
        double left = drv_predict_dirtied(in, v->factor * seconds, v->bend) / rate;
        idle = left < best * PROGRESS ? 0 : idle + 1;
        best = MIN(best, left);
        out->converges = left * 1000 <= in->downtime_ms;
        if (out->converges || idle >= PATIENCE)
            break;
        total += seconds = left;
    }
    out->needed_ms = ceil(best * 1000);
    out->downtime_ms = best * 1000 + v->fixed_ms;
    out->total_ms = total * 1000 + out->downtime_ms;
    out->rounds = round + 1;
}

/* --- all cases --- */

static double
choose(const DrvRange *range, guint which)
{
    return which == 0 ? range->low : which == 1 ? range->likely : range->high;
}

/* A range that can be reckoned with: in order, and within bounds. */
static DrvRange
sane(DrvRange r, double least, double most)
{
    r.likely = isnan(r.likely) ? least : CLAMP(r.likely, least, most);
    r.low = isnan(r.low) ? r.likely : CLAMP(r.low, least, r.likely);
    r.high = isnan(r.high) ? r.likely : CLAMP(r.high, r.likely, most);
    return r;
}

static DrvPredictInput
sane_input(const DrvPredictInput *given)
{
    DrvPredictInput in = *given;
    in.ram = given->ram > 0 ? MIN(given->ram, 1e18) : 0;
    in.nonzero = sane(in.nonzero, 0, 1);
    in.dirty_factor = sane(in.dirty_factor, 0.01, 1000);
    in.link = sane(in.link, 1, 1e15);
    in.ratio = sane(in.ratio, 0.01, 1e6);
    in.ratio_again = sane(in.ratio_again, 0.01, 1e6);
    in.speed = sane(in.speed, 1, 1e15);
    in.fixed_ms = sane(in.fixed_ms, 0, 1e9);
    in.downtime_ms = given->downtime_ms > 0 ? given->downtime_ms : 0;
    in.trust = given->trust > 0 ? MIN(given->trust, 1) : 0;
    in.n_dirty = 0;
    /* Points that go on in time, and do not get less. */
    for (guint i = 0; i < MIN(given->n_dirty, DRV_PREDICT_POINTS); i++) {
        DrvDirtyPoint p = given->dirty[i];
        const DrvDirtyPoint *before = in.n_dirty > 0 ? &in.dirty[in.n_dirty - 1] : NULL;
        if (!(p.seconds > (before != NULL ? before->seconds * 1.01 : 1e-6)) || !(p.bytes >= 0))
            continue;
        p.bytes = before != NULL ? MAX(p.bytes, before->bytes) : p.bytes;
        in.dirty[in.n_dirty++] = p;
    }
    return in;
}

#define VALUES 7 /* that are ranges and vary by themselves */
#define CASES 2187

static void
play_case(const DrvPredictInput *in, guint number, Case *out)
{
    guint which[VALUES];
    out->weight = 1;
    for (guint i = 0; i < VALUES; i++, number /= 3) {
        which[i] = number % 3;
        out->weight *= weights[which[i]];
    }
    const Values v = {
        .nonzero = choose(&in->nonzero, which[0]),
        .factor = choose(&in->dirty_factor, which[1]),
        .bend = which[2] * 0.5,
        .link = choose(&in->link, which[3]),
        /* Memory that packs well the first time also does so later. */
        .ratio = choose(&in->ratio, which[4]),
        .ratio_again = choose(&in->ratio_again, which[4]),
        .speed = choose(&in->speed, which[5]),
        .fixed_ms = choose(&in->fixed_ms, which[6]),
    };
    play(in, &v, out);
}

typedef struct {
    double value;
    double weight;
} Weighed;

static int
by_value(gconstpointer a, gconstpointer b)
{
    double x = ((const Weighed *)a)->value, y = ((const Weighed *)b)->value;
    return (x > y) - (x < y);
}

static double
quantile(const GArray *values, double share)
{
    double sum = 0, reached = 0;
    for (guint i = 0; i < values->len; i++)
        sum += g_array_index(values, Weighed, i).weight;
    for (guint i = 0; i < values->len; i++) {
        reached += g_array_index(values, Weighed, i).weight;
        if (reached >= share * sum)
            return g_array_index(values, Weighed, i).value;
    }
    return values->len > 0 ? g_array_index(values, Weighed, values->len - 1).value : 0;
}

/* Of a member of all cases, or only of those that converge: 0 when none does. */
static DrvRange
summarise(const Case *cases, gsize member, gboolean converging)
{
    g_autoptr(GArray) values = g_array_sized_new(FALSE, FALSE, sizeof(Weighed), CASES);
    for (guint i = 0; i < CASES; i++) {
        Weighed w = {G_STRUCT_MEMBER(double, &cases[i], member), cases[i].weight};
        if (cases[i].converges || !converging)
            g_array_append_val(values, w);
    }
    g_array_sort(values, by_value);
    return (DrvRange){quantile(values, 0.1), quantile(values, 0.5), quantile(values, 0.9)};
}

static double
share_converging(const Case *cases)
{
    double share = 0;
    for (guint i = 0; i < CASES; i++)
        share += cases[i].converges ? cases[i].weight : 0;
    return share;
}

/* The rates that a long stretch of later rounds would see. */
static void
note_rates(const DrvPredictInput *in, DrvPrediction *out)
{
    const double second = 1;
    out->delivery_rate = MIN(in->link.likely * in->ratio_again.likely, in->speed.likely);
    out->dirty_rate = drv_predict_dirtied(in, in->dirty_factor.likely * second, 0.5) / second;
}

void
drv_predict(const DrvPredictInput *given, DrvPrediction *out)
{
    DrvPredictInput in = sane_input(given);
    g_autofree Case *cases = g_new0(Case, CASES);
    for (guint i = 0; i < CASES; i++)
        play_case(&in, i, &cases[i]);
    double p = share_converging(cases);
    *out = (DrvPrediction){
        .converges = p >= CLEAR       ? DRV_PREDICT_YES
                     : p <= 1 - CLEAR ? DRV_PREDICT_NO
                                      : DRV_PREDICT_UNSURE,
        .chance = CLAMP(p, 0, 1),
        .sure = 0.5 + (CLAMP(MAX(p, 1 - p), 0.5, 1) - 0.5) * in.trust,
        .total_ms = summarise(cases, G_STRUCT_OFFSET(Case, total_ms), TRUE),
        .downtime_ms = summarise(cases, G_STRUCT_OFFSET(Case, downtime_ms), TRUE),
        .rounds = summarise(cases, G_STRUCT_OFFSET(Case, rounds), TRUE),
        .needed_ms = summarise(cases, G_STRUCT_OFFSET(Case, needed_ms), FALSE),
    };
    note_rates(&in, out);
}

/* --- in words --- */

const char *
drv_predict_verdict_name(DrvPredictVerdict verdict)
{
    static const char *const names[] = {"yes", "no", "unsure"};
    return names[verdict];
}

char *
drv_predict_sentence(const DrvPredictInput *in, const DrvPrediction *p)
{
    g_autofree char *dirty = drv_words_bytes(p->dirty_rate);
    g_autofree char *delivery = drv_words_bytes(p->delivery_rate);
    g_autofree char *limit = drv_words_ms(in->downtime_ms);
    g_autofree char *needed = drv_words_ms(p->needed_ms.high);
    g_autofree char *likely = drv_words_ms(p->needed_ms.likely);
    switch (p->converges) {
    case DRV_PREDICT_YES:
        return g_strdup_printf(
            "it will converge: the guest is expected to write to %s in a second, "
            "and %s/s get across",
            dirty, delivery);
    case DRV_PREDICT_NO:
        return g_strdup_printf("it will not converge: the guest is expected to write to %s in a "
                               "second, and %s/s get across, so that a downtime of %s would be "
                               "needed where %s is allowed",
                               dirty, delivery, likely, limit);
    default:
        return g_strdup_printf("it may converge or not: the guest is expected to write to %s in a "
                               "second, and %s/s get across; with a downtime of %s it should, %s "
                               "is allowed",
                               dirty, delivery, needed, limit);
    }
}
