/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/convergence.h"

#include "dirty-tracking/words-private.h"

#include <math.h>

/*
 * One figure decides: the *need*, which is how long the guest would be down if it were stopped as a
 * round begins: what the round has to bring, divided by the rate of delivery. QEMU switches over by
 * itself once that fits into the downtime limit, so the controller only asks whether the need gets
 * less from round to round:
 *
 *   rounds 1 to 3   learning: the first brings everything, the next are the first in which a codec
 *                   can send deltas, and the rates are still those of the beginning; a long second
 *                   round shows all of that by itself
 *   then            a round whose need is less than the least so far is progress; one that is not
 *                   counts as lost, and as two if it comes after a long one
 *   2 lost          doubt: the sentence is there
 *   3 lost,         a measure: the mildest that is allowed and promises to be enough. Then all
 *   and patience    begins anew, but for the learning: what is compared now is the need under the
 *                   new conditions
 *
 * The measures, mildest first: a longer downtime, if what is allowed suffices; throttling, which is
 * then asked for again and harder; the longest downtime allowed, in the hope that it will suffice;
 * giving up. QEMU may take some rounds until it throttles as it was asked to: till then nothing is
 * judged. A guest that writes in bursts, or a link that is slow for a while, is outwaited: any
 * round with a smaller need resets the count, and QEMU uses the first gap that there is.
 */

#define LEARN_ROUNDS 3
#define DOUBT_LOST 2
#define ACT_LOST 3
#define PROGRESS 0.97
/* What was doubted is expected again when it needs so much less than it did then. */
#define HOPE 0.85
/* Rounds may be short: what is judged must also have lasted. */
#define DOUBT_US G_USEC_PER_SEC
#define ACT_US (2 * G_USEC_PER_SEC)
/* A downtime that is asked for has so much to spare, and is a multiple of so much. */
#define MARGIN 1.25
#define STEP_MS 10
/* Throttling is to leave the guest this share of the rate of delivery. */
#define THROTTLE_TO 0.5
#define MIN_THROTTLE_PCT 20
#define MAX_THROTTLE_STEPS 4
/* What had no effect is followed by this share of what CPU time was left: a guest that writes to
 * the same memory again and again feels nothing less. */
#define THROTTLE_FURTHER 3
/* QEMU throttles at the second dirty log that it asks for, a second apart or more; so long it is
 * waited for. */
#define THROTTLE_WAIT_US (15 * G_USEC_PER_SEC)
/* A round of so long shows the rates that will be. */
#define LONG_ROUND_US (5 * G_USEC_PER_SEC)
/* The rate of delivery is an average over about this long. */
#define AVERAGE_S 2.0
/* Less than this is no delivery. */
#define LEAST_RATE 1024.0

struct _DrvConvergence {
    DrvConvergePolicy policy;

    guint downtime_ms;
    guint throttle_steps;   /* asked for so far */
    guint throttle_asked;   /* percent that QEMU is not at yet; 0: it is */
    gint64 throttle_ask_us; /* ... since then */
    double dirty_limit;
    gboolean gave_up;

    /* As the samples have it */
    gint64 last_us;
    guint pass;
    double delivery;   /* averaged */
    double switchover; /* the same, as QEMU sees it */
    double dirty;
    guint throttle_pct;

    /* The judgement */
    guint rounds;       /* judged or learnt from, the first not among them */
    gint64 round_us;    /* the round under way began */
    gboolean stalled;   /* there was no link for some of it: the next has all of that to bring */
    double best;        /* the least need since the last measure, seconds */
    double doubted;     /* what that was when doubt began */
    double recent[3];   /* the needs of the last rounds */
    guint lost;         /* rounds without progress, in a row */
    gint64 progress_us; /* when there was some, or a measure, or the first judgement */
    gboolean measured;  /* a measure was taken */
    DrvConvergeOutlook outlook;

    char *doubt;
    char *why;
};

DrvConvergence *
drv_convergence_new(const DrvConvergePolicy *policy)
{
    DrvConvergence *self = g_new0(DrvConvergence, 1);
    self->policy = *policy;
    if (policy->max_throttle_pct == 0 || policy->max_throttle_pct > 99)
        self->policy.max_throttle_pct = 99;
    self->downtime_ms = policy->downtime_ms;
    self->best = INFINITY;
    return self;
}

void
drv_convergence_free(DrvConvergence *self)
{
    if (self == NULL)
        return;
    g_free(self->doubt);
    g_free(self->why);
    g_free(self);
}

guint
drv_convergence_downtime_ms(DrvConvergence *self)
{
    return self->downtime_ms;
}

void
drv_convergence_throttled_by(DrvConvergence *self, DrvThrottle throttle)
{
    self->policy.throttle = throttle;
    if (throttle != DRV_THROTTLE_AUTO_CONVERGE)
        self->throttle_asked = 0; /* it does so at once */
}

DrvConvergeOutlook
drv_convergence_outlook(DrvConvergence *self, const char **why)
{
    if (why != NULL)
        *why = self->outlook == DRV_CONVERGE_DOUBTED ? self->doubt : NULL;
    return self->outlook;
}

/* --- samples --- */

static void
average(double *mean, double rate, double seconds)
{
    rate = rate > 0 ? rate : 0;
    if (*mean <= 0)
        *mean = rate;
    else if (seconds > 0)
        *mean += (rate - *mean) * MIN(1, seconds / AVERAGE_S);
}

/* Over a stall the average is kept: what comes after it counts from then on. */
static void
take_rates(DrvConvergence *self, const DrvConvergeSample *s)
{
    double seconds = (double)(s->now_us - self->last_us) / G_USEC_PER_SEC;
    if (self->rounds == 0) /* the first round is mostly zero pages, or none, and shows nothing */
        self->delivery = self->switchover = 0;
    average(&self->delivery, s->delivery_rate, seconds);
    average(&self->switchover, s->switchover_rate > 0 ? s->switchover_rate : s->delivery_rate,
            seconds);
    if (s->dirty_rate > 0)
        self->dirty = s->dirty_rate;
    self->throttle_pct = s->throttle_pct;
}

static double
least_recent(const DrvConvergence *self)
{
    double least = INFINITY;
    for (guint i = 0; i < G_N_ELEMENTS(self->recent); i++)
        if (self->recent[i] > 0)
            least = MIN(least, self->recent[i]);
    return least;
}

/* What the user would have to allow for it to end now. */
static double
needed_ms(const DrvConvergence *self)
{
    double ms = least_recent(self) * 1000 * MARGIN;
    return ceil(MIN(ms, 1e9) / STEP_MS) * STEP_MS;
}

/* --- in words --- */

/* The figures that explain all the rest. */
static char *
figures(const DrvConvergence *self)
{
    g_autofree char *dirty = drv_words_bytes(self->dirty);
    g_autofree char *delivery = drv_words_bytes(self->delivery);
    g_autofree char *need = drv_words_ms(least_recent(self) * 1000);
    g_autofree char *limit = drv_words_ms(self->downtime_ms);
    g_autofree char *slowed =
        self->throttle_pct > 0
            ? g_strdup_printf(" although its CPUs get %u %% less time", self->throttle_pct)
        : self->dirty_limit > 0 ? g_strdup(" although it is held back")
                                : g_strdup("");
    if (self->dirty <= 0)
        return g_strdup_printf("%s/s get across%s, and what the guest writes meanwhile would take "
                               "%s to bring while it is stopped, where %s is allowed",
                               delivery, slowed, need, limit);
    return g_strdup_printf(
        "the guest writes %s/s%s, %s/s get across, and to stop it now would take "
        "%s, where %s is allowed",
        dirty, slowed, delivery, need, limit);
}

static void
say(char **sentence, const DrvConvergence *self, const char *what)
{
    g_autofree char *because = figures(self);
    g_free(*sentence);
    *sentence = g_strdup_printf("%s: %s", what, because);
}

/* --- measures --- */

static DrvConvergeDecision
nothing(void)
{
    return (DrvConvergeDecision){.action = DRV_CONVERGE_CONTINUE};
}

static DrvConvergeDecision
longer_downtime(DrvConvergence *self, guint ms, const char *remark)
{
    g_autofree char *words = drv_words_ms(ms);
    g_autofree char *text = g_strdup_printf("the guest may be down for %s%s", words, remark);
    say(&self->why, self, text);
    self->downtime_ms = ms;
    return (DrvConvergeDecision){DRV_CONVERGE_DOWNTIME, .downtime_ms = ms, .why = self->why};
}

/* Of CPU time to take away. Harder each time. */
static guint
throttle_pct(const DrvConvergence *self, double limit)
{
    guint most = self->policy.max_throttle_pct, now = self->throttle_pct;
    double share = self->dirty > 0 ? 1 - limit / self->dirty : 0.5;
    guint least = MAX(MIN_THROTTLE_PCT, now + 10);
    if (self->throttle_steps > 0)
        least = MAX(least, 100 - (100 - now) / THROTTLE_FURTHER);
    return (guint)CLAMP(share * 100, (double)MIN(least, most), (double)most);
}

static DrvConvergeDecision
throttle(DrvConvergence *self, gint64 now_us)
{
    double limit =
        self->throttle_steps == 0 ? self->delivery * THROTTLE_TO : self->dirty_limit * THROTTLE_TO;
    guint pct = throttle_pct(self, limit);
    say(&self->why, self, "the guest is slowed down so that it can be moved");
    self->dirty_limit = MAX(limit, 1);
    self->throttle_steps++;
    self->throttle_asked = self->policy.throttle == DRV_THROTTLE_AUTO_CONVERGE ? pct : 0;
    self->throttle_ask_us = now_us;
    return (DrvConvergeDecision){DRV_CONVERGE_THROTTLE, .throttle_pct = pct,
                                 .dirty_limit = self->dirty_limit, .why = self->why};
}

static DrvConvergeDecision
give_up(DrvConvergence *self)
{
    g_autofree char *needed = drv_words_ms(needed_ms(self));
    g_autofree char *what =
        g_strdup_printf("it does not converge, and would only with a downtime of %s", needed);
    if (!self->policy.give_up || self->gave_up)
        return nothing();
    self->gave_up = TRUE;
    say(&self->why, self, what);
    return (DrvConvergeDecision){DRV_CONVERGE_GIVE_UP, .why = self->why};
}

static gboolean
may_throttle(const DrvConvergence *self)
{
    return self->policy.throttle != DRV_THROTTLE_NONE &&
           self->throttle_steps < MAX_THROTTLE_STEPS &&
           self->throttle_pct < self->policy.max_throttle_pct;
}

/* The mildest measure that is left. */
static DrvConvergeDecision
measure(DrvConvergence *self, gint64 now_us)
{
    guint most = self->policy.max_downtime_ms;
    double needed = MAX(needed_ms(self), self->downtime_ms + STEP_MS);
    if (needed <= most)
        return longer_downtime(self, (guint)needed, "");
    if (may_throttle(self))
        return throttle(self, now_us);
    if (self->downtime_ms < most)
        return longer_downtime(self, most, ", the most allowed");
    return give_up(self);
}

/* --- judging --- */

/* Everything but what was learnt. */
static void
begin_anew(DrvConvergence *self, gint64 now_us)
{
    if (self->outlook == DRV_CONVERGE_DOUBTED)
        self->outlook = DRV_CONVERGE_UNKNOWN;
    self->best = INFINITY;
    self->lost = 0;
    self->progress_us = now_us;
    for (guint i = 0; i < G_N_ELEMENTS(self->recent); i++)
        self->recent[i] = 0;
}

/* Whether the round that is over, the first apart, was long enough to learn all from it. */
static gboolean
was_long(const DrvConvergence *self, gint64 now_us)
{
    return self->rounds > 1 && now_us - self->round_us >= LONG_ROUND_US;
}

static void
judge_round(DrvConvergence *self, const DrvConvergeSample *s)
{
    double need = (double)MAX(s->remaining, s->round_bytes) / self->switchover;
    double allowed = self->downtime_ms / 1000.0;
    self->recent[self->rounds++ % G_N_ELEMENTS(self->recent)] = MAX(need, 1e-6);
    gboolean lengthy = was_long(self, s->now_us);
    self->round_us = s->now_us;
    if (self->rounds < LEARN_ROUNDS && !lengthy) {
        self->best = need;
        self->progress_us = s->now_us;
        return;
    }
    if (need <= allowed || need < self->best * PROGRESS) {
        self->best = MIN(self->best, need);
        self->lost = 0;
        self->progress_us = s->now_us;
        if (self->outlook != DRV_CONVERGE_DOUBTED || need <= allowed || need < self->doubted * HOPE)
            self->outlook = DRV_CONVERGE_EXPECTED;
    } else {
        self->lost += lengthy ? 2 : 1;
    }
    if (self->lost >= DOUBT_LOST && s->now_us - self->progress_us >= DOUBT_US) {
        if (self->outlook != DRV_CONVERGE_DOUBTED)
            self->doubted = self->best;
        self->outlook = DRV_CONVERGE_DOUBTED;
        say(&self->doubt, self, "it is not expected to converge");
    }
}

/* Whether QEMU has not done yet what it was asked to. */
static gboolean
awaits_throttle(DrvConvergence *self, const DrvConvergeSample *s)
{
    if (self->throttle_asked == 0)
        return FALSE;
    gboolean there = s->throttle_pct >= self->throttle_asked;
    if (there || s->now_us - self->throttle_ask_us >= THROTTLE_WAIT_US)
        self->throttle_asked = 0;
    return TRUE; /* the round in which it comes says nothing, either */
}

/* How long a lack of progress is suffered: once as the user says, then as long as a measure needs
 * to show; before giving up as the user says again. */
static gint64
patience_us(const DrvConvergence *self)
{
    gint64 users = (gint64)self->policy.patience_s * G_USEC_PER_SEC;
    gboolean last = !may_throttle(self) && self->downtime_ms >= self->policy.max_downtime_ms;
    return !self->measured || last ? MAX(users, ACT_US) : ACT_US;
}

DrvConvergeDecision
drv_convergence_sample(DrvConvergence *self, const DrvConvergeSample *s)
{
    DrvConvergeDecision decision = nothing();
    if (s->stopped)
        return decision;
    if (s->stalled) {
        /* Time without a link is no lack of progress. */
        self->progress_us += self->last_us > 0 ? MAX(s->now_us - self->last_us, 0) : 0;
        self->last_us = s->now_us;
        self->stalled = TRUE;
        return decision;
    }
    take_rates(self, s);
    gboolean round = s->pass > MAX(self->pass, 1) && self->switchover >= LEAST_RATE;
    self->last_us = s->now_us;
    if (!round)
        return decision;
    self->pass = s->pass;
    if (awaits_throttle(self, s) || self->stalled) {
        begin_anew(self, s->now_us);
        self->round_us = s->now_us;
        self->stalled = FALSE;
        return decision;
    }
    judge_round(self, s);
    if (self->lost >= ACT_LOST && s->now_us - self->progress_us >= patience_us(self)) {
        decision = measure(self, s->now_us);
        if (decision.action != DRV_CONVERGE_CONTINUE) {
            self->measured = TRUE;
            begin_anew(self, s->now_us);
        }
    }
    return decision;
}
