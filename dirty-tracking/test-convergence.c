/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/convergence.h"

#include <math.h>
#include <string.h>

/*
 * A guest, a link and a QEMU that exist only as figures, under a simulated clock. The QEMU brings
 * what is left of a round, asks the dirty log when that is nothing, and stops the guest once that
 * fits into the downtime limit.
 */

#define MIB 1048576.0
#define LINK (117 * MIB)
#define RAM (2048 * MIB)
#define TICK 0.01
#define SAMPLE_TICKS 25

typedef struct Sim Sim;

struct Sim {
    /* What is simulated; what is left out is a guest that does not write, a steady link, no
     * codec, and 300 ms */
    double (*writes)(double now); /* bytes a second that the guest wants to write */
    double hot;                   /* it always writes to these bytes; 0: never to the same twice */
    double (*link)(double now);
    double again; /* guest bytes for a byte on the link, from round 2 on */
    double stall_from, stall_to;
    double zeros;          /* the share of its pages that QEMU sees as such */
    double throttle_after; /* seconds until QEMU throttles as it was asked to */
    DrvConvergePolicy policy;

    /* How it goes */
    double now, left, dirty, round_began, round_bytes, dirty_rate, limit, delivered;
    guint pass, throttle_pct, throttle_asked;

    /* How it went */
    gboolean done;
    guint downtimes, throttles, gave_up;
    double doubted_at, decided_at, least_gap, downtime;
    char *why; /* of the last decision */
    char *doubt;
};

static void
write_some(Sim *sim)
{
    double rate = sim->writes != NULL ? sim->writes(sim->now) : 0;
    rate *= 1 - sim->throttle_pct / 100.0;
    if (sim->limit > 0)
        rate = MIN(rate, sim->limit);
    if (sim->hot > 0)
        sim->dirty += (sim->hot - sim->dirty) * (1 - exp(-rate * TICK / sim->hot));
    else
        sim->dirty = MIN(sim->dirty + rate * TICK, RAM);
}

static double
rate_of(const Sim *sim)
{
    if (sim->now >= sim->stall_from && sim->now < sim->stall_to)
        return 0;
    double link = sim->link != NULL ? sim->link(sim->now) : LINK;
    return link * (sim->pass > 1 && sim->again > 0 ? sim->again : 1);
}

/* Asks the dirty log. */
static void
next_round(Sim *sim, double downtime)
{
    sim->dirty_rate = sim->dirty / (sim->now - sim->round_began);
    sim->left = sim->round_bytes = sim->dirty;
    sim->dirty = 0;
    sim->round_began = sim->now;
    sim->pass++;
    sim->downtime = sim->left / (rate_of(sim) * (1 - sim->zeros));
    sim->done = sim->downtime <= downtime;
}

static void
tick(Sim *sim, double downtime)
{
    double rate = rate_of(sim);
    sim->now += TICK;
    write_some(sim);
    sim->delivered += MIN(sim->left, rate * TICK);
    sim->left -= MIN(sim->left, rate * TICK);
    if (sim->left <= 0 && rate > 0)
        next_round(sim, downtime);
}

static void
obey(Sim *sim, const DrvConvergeDecision *d)
{
    if (d->action == DRV_CONVERGE_CONTINUE) {
        g_assert_null(d->why);
        return;
    }
    if (sim->decided_at > 0)
        sim->least_gap = MIN(sim->least_gap, sim->now - sim->decided_at);
    sim->decided_at = sim->now;
    sim->downtimes += d->action == DRV_CONVERGE_DOWNTIME;
    sim->throttles += d->action == DRV_CONVERGE_THROTTLE;
    sim->gave_up += d->action == DRV_CONVERGE_GIVE_UP;
    if (d->action == DRV_CONVERGE_DOWNTIME)
        g_assert_cmpuint(d->downtime_ms, <=, sim->policy.max_downtime_ms);
    if (d->action == DRV_CONVERGE_THROTTLE) {
        g_assert_cmpuint(d->throttle_pct, >, sim->throttle_pct);
        g_assert_cmpuint(d->throttle_pct, <=, 99);
        sim->throttle_asked = d->throttle_pct;
        if (sim->policy.throttle == DRV_THROTTLE_DIRTY_LIMIT)
            sim->limit = d->dirty_limit;
    }
    g_free(sim->why);
    sim->why = g_strdup(d->why);
}

static void
take_sample(Sim *sim, DrvConvergence *c)
{
    const char *why;
    if (sim->policy.throttle == DRV_THROTTLE_AUTO_CONVERGE &&
        sim->now >= sim->decided_at + sim->throttle_after)
        sim->throttle_pct = sim->throttle_asked;
    const DrvConvergeSample s = {
        .now_us = (gint64)(sim->now * G_USEC_PER_SEC),
        .pass = sim->pass,
        .remaining = (guint64)sim->left,
        .round_bytes = (guint64)sim->round_bytes,
        .dirty_rate = sim->dirty_rate,
        .delivery_rate = sim->delivered / (SAMPLE_TICKS * TICK),
        .switchover_rate = sim->delivered / (SAMPLE_TICKS * TICK) * (1 - sim->zeros),
        .throttle_pct = sim->throttle_pct,
        .stalled = rate_of(sim) <= 0,
    };
    DrvConvergeDecision d = drv_convergence_sample(c, &s);
    sim->delivered = 0;
    obey(sim, &d);
    if (drv_convergence_outlook(c, &why) != DRV_CONVERGE_DOUBTED) {
        g_assert_null(why);
    } else if (sim->doubted_at == 0) {
        sim->doubted_at = sim->now;
        sim->doubt = g_strdup(why);
    }
}

/* Until it ends, or for 'seconds'. */
static void
run(Sim *sim, double seconds)
{
    if (sim->policy.downtime_ms == 0)
        sim->policy.downtime_ms = 300;
    g_autoptr(DrvConvergence) c = drv_convergence_new(&sim->policy);
    sim->left = RAM;

    sim->pass = 1;
    sim->least_gap = INFINITY;
    for (guint n = 1; !sim->done && !sim->gave_up && sim->now < seconds; n++) {
        tick(sim, drv_convergence_downtime_ms(c) / 1000.0);
        if (n % SAMPLE_TICKS == 0)
            take_sample(sim, c);
    }
    if (sim->downtimes > 0)
        g_assert_cmpuint(drv_convergence_downtime_ms(c), >, sim->policy.downtime_ms);
    /* Whatever is decided is given time to show. */
    g_assert_cmpfloat(sim->least_gap, >=, 2);
}

static void
clear(Sim *sim)
{
    g_free(sim->why);
    g_free(sim->doubt);
}

/* It ends, and by itself. */
static void
assert_left_alone(Sim *sim, double seconds)
{
    run(sim, seconds);
    g_assert_true(sim->done);
    g_assert_cmpuint(sim->downtimes + sim->throttles + sim->gave_up, ==, 0);
    clear(sim);
}

/* All that may be done is allowed, so that doing any of it shows. */
#define ALL_ALLOWED                                                                                \
    {                                                                                              \
        .max_downtime_ms = 2000, .throttle = DRV_THROTTLE_AUTO_CONVERGE, .give_up = TRUE           \
    }

static void
test_idle(void)
{
    Sim sim = {.policy = ALL_ALLOWED};
    assert_left_alone(&sim, 30);
    g_assert_cmpfloat(sim.doubted_at, ==, 0);
}

static double
half_the_link(double now)
{
    return 0.5 * LINK;
}

static double
most_of_the_link(double now)
{
    return 0.9 * LINK;
}

static double
thrice_the_link(double now)
{
    return 3 * LINK;
}

/* Slower than the link: it gets there, and is not disturbed, however slowly. */
static void
test_linear(void)
{
    Sim half = {.writes = half_the_link, .policy = ALL_ALLOWED};
    assert_left_alone(&half, 60);
    g_assert_cmpfloat(half.doubted_at, ==, 0);
    Sim most = {.writes = most_of_the_link, .policy = ALL_ALLOWED};
    assert_left_alone(&most, 300);
    g_assert_cmpfloat(most.doubted_at, ==, 0);
}

/* Nothing is allowed: it goes on for ever, but says so, and why. */
static void
test_never(void)
{
    Sim sim = {.writes = thrice_the_link};
    run(&sim, 600);
    g_assert_false(sim.done);
    g_assert_cmpuint(sim.downtimes + sim.throttles + sim.gave_up, ==, 0);
    g_assert_cmpfloat(sim.doubted_at, >, 0);
    /* 17.5 s a round (all of the RAM is written to in each); the third begins with the doubt. */
    g_assert_cmpfloat(sim.doubted_at, <, 36);
    g_assert_true(g_str_has_prefix(sim.doubt, "it is not expected to converge: the guest writes "));
    g_assert_nonnull(strstr(sim.doubt, ", 117 MiB/s get across, and to stop it now would take "));
    g_assert_true(g_str_has_suffix(sim.doubt, ", where 300 ms is allowed"));
    clear(&sim);
}

static void
test_give_up(void)
{
    Sim sim = {.writes = thrice_the_link, .policy = {.give_up = TRUE}};
    run(&sim, 600);
    g_assert_cmpuint(sim.gave_up, ==, 1);
    g_assert_cmpfloat(sim.doubted_at, <, sim.now);
    g_assert_true(g_str_has_prefix(sim.why, "it does not converge, and would only with a downtime "
                                            "of 22 s: the guest writes "));
    clear(&sim);

    Sim patient = {.writes = thrice_the_link, .policy = {.give_up = TRUE, .patience_s = 300}};
    run(&patient, 600);
    g_assert_cmpuint(patient.gave_up, ==, 1);
    g_assert_cmpfloat(patient.now, >=, 300);
    clear(&patient);
}

/* Rewrites the same 256 MiB: 2.2 s of the link. */
static void
test_hot_set(void)
{
    Sim allowed = {.writes = thrice_the_link,
                   .hot = 256 * MIB,
                   .policy = {.max_downtime_ms = 4000, .give_up = TRUE}};
    run(&allowed, 120);
    g_assert_true(allowed.done);
    g_assert_cmpuint(allowed.downtimes, ==, 1);
    g_assert_cmpfloat(allowed.downtime, >, 1.5);
    g_assert_cmpfloat(allowed.downtime, <, 2.8);
    g_assert_true(g_str_has_prefix(allowed.why, "the guest may be down for 2."));
    clear(&allowed);

    /* Not enough is allowed: it is tried with all there is, and then given up. */
    Sim scarce = {.writes = thrice_the_link,
                  .hot = 256 * MIB,
                  .policy = {.max_downtime_ms = 1000, .give_up = TRUE}};
    run(&scarce, 120);
    g_assert_false(scarce.done);
    g_assert_cmpuint(scarce.downtimes, ==, 1);
    g_assert_cmpuint(scarce.gave_up, ==, 1);
    g_assert_nonnull(strstr(scarce.why, "where 1.0 s is allowed"));
    clear(&scarce);

    /* A codec that sends what has changed is given the time that it needs to show. */
    Sim delta = {.writes = thrice_the_link, .hot = 256 * MIB, .again = 20, .policy = ALL_ALLOWED};
    assert_left_alone(&delta, 60);
    g_assert_cmpfloat(delta.doubted_at, ==, 0);
}

static void
test_throttling(void)
{
    Sim cpus = {
        .writes = thrice_the_link,
        .policy = {.downtime_ms = 300, .throttle = DRV_THROTTLE_AUTO_CONVERGE, .give_up = TRUE}};
    run(&cpus, 600);
    g_assert_true(cpus.done);
    /* It wrote to all of its memory in every round: how much faster than that did not show. */
    g_assert_cmpuint(cpus.throttles, ==, 2);
    g_assert_cmpuint(cpus.throttle_pct, >, 66);
    g_assert_true(g_str_has_prefix(
        cpus.why, "the guest is slowed down so that it can be moved: the guest writes "));
    clear(&cpus);

    /* To write less is no help where the same is written again; harder, and then it is. */
    Sim again = {
        .writes = thrice_the_link,
        .hot = 512 * MIB,
        .policy = {.downtime_ms = 300, .throttle = DRV_THROTTLE_DIRTY_LIMIT, .give_up = TRUE}};
    run(&again, 600);
    g_assert_true(again.done);
    g_assert_cmpuint(again.throttles, >=, 1);
    g_assert_cmpuint(again.gave_up, ==, 0);
    clear(&again);

    /* The same with CPU time, of which most has to go. */
    Sim harder = {
        .writes = thrice_the_link,
        .hot = 128 * MIB,
        .policy = {.downtime_ms = 50, .throttle = DRV_THROTTLE_AUTO_CONVERGE, .give_up = TRUE}};
    run(&harder, 600);
    g_assert_true(harder.done);
    g_assert_cmpuint(harder.throttles, >=, 2);
    g_assert_cmpuint(harder.throttle_pct, >, 80);
    clear(&harder);
}

/* Short rounds, in which QEMU has done nothing of it yet, are not held against the throttling. */
static void
test_throttling_takes_its_time(void)
{
    Sim slow = {
        .writes = thrice_the_link,
        .hot = 64 * MIB,
        .throttle_after = 12,
        .policy = {.downtime_ms = 100, .throttle = DRV_THROTTLE_AUTO_CONVERGE, .give_up = TRUE}};
    run(&slow, 600);
    g_assert_true(slow.done);
    g_assert_cmpuint(slow.gave_up, ==, 0);
    g_assert_cmpfloat(slow.least_gap, >, 12);
    clear(&slow);

    /* A QEMU that never does it is not waited for without end. */
    Sim never = slow;
    never = (Sim){
        .writes = thrice_the_link, .hot = 64 * MIB, .throttle_after = 1e9, .policy = slow.policy};
    run(&never, 600);
    g_assert_false(never.done);
    g_assert_cmpuint(never.gave_up, ==, 1);
    g_assert_cmpfloat(never.now, <, 120);
    clear(&never);
}

/* It turns out that the dirty ring is there: that needs no waiting. */
static void
test_throttled_by_another_means(void)
{
    const DrvConvergePolicy policy = {
        .downtime_ms = 300, .throttle = DRV_THROTTLE_AUTO_CONVERGE, .give_up = TRUE};
    g_autoptr(DrvConvergence) c = drv_convergence_new(&policy);
    DrvConvergeSample s = {.pass = 1, .delivery_rate = LINK, .remaining = (guint64)(9 * LINK)};
    guint throttles = 0;
    for (guint i = 0; i < 24; i++) {
        s.pass++;
        s.now_us += G_USEC_PER_SEC;
        throttles += drv_convergence_sample(c, &s).action == DRV_CONVERGE_THROTTLE;
        if (throttles == 1)
            drv_convergence_throttled_by(c, DRV_THROTTLE_DIRTY_LIMIT);
    }
    g_assert_cmpuint(throttles, ==, 4);
}

/* QEMU takes pages of zeros for next to nothing, and so the link for slower than it is: what it
 * believes is what has to be allowed. */
static void
test_zeros(void)
{
    Sim sim = {.writes = thrice_the_link,
               .hot = 128 * MIB,
               .zeros = 0.9,
               .policy = {.max_downtime_ms = 20000, .give_up = TRUE}};
    run(&sim, 120);
    g_assert_true(sim.done);
    g_assert_cmpuint(sim.downtimes, ==, 1);
    /* What it says is true all the same. */
    g_assert_nonnull(strstr(sim.why, ", 11"));
    g_assert_nonnull(strstr(sim.why, " MiB/s get across, and to stop it now would take 1"));
    clear(&sim);
}

/* 4 s of writing twice as fast as the link, 10 s of nothing. */
static double
bursts(double now)
{
    return fmod(now, 14) < 4 ? 2 * LINK : 0;
}

/* Up to one and a half of the link within 20 s, and down at once. */
static double
sawtooth(double now)
{
    return fmod(now, 20) / 20 * 1.5 * LINK;
}

/* What comes and goes is outwaited. */
static void
test_waves(void)
{
    Sim burst = {.writes = bursts, .policy = ALL_ALLOWED};
    assert_left_alone(&burst, 120);
    Sim saw = {.writes = sawtooth, .policy = ALL_ALLOWED};
    saw.policy.patience_s = 30;
    assert_left_alone(&saw, 300);
}

/* A fifth of the link between 20 and 60 s. */
static double
slow_for_a_while(double now)
{
    return now > 20 && now < 60 ? LINK / 5 : LINK;
}

static double
slow_for_good(double now)
{
    return now > 10 ? LINK / 5 : LINK;
}

static void
test_slow_link(void)
{
    Sim mends = {.writes = half_the_link,
                 .link = slow_for_a_while,
                 .policy = {.give_up = TRUE, .patience_s = 60}};
    assert_left_alone(&mends, 300);
    Sim stays = {.writes = half_the_link,
                 .hot = 64 * MIB,
                 .link = slow_for_good,
                 .policy = {.max_downtime_ms = 5000, .give_up = TRUE}};
    run(&stays, 300);
    g_assert_true(stays.done);
    g_assert_cmpuint(stays.downtimes, >=, 1);
    g_assert_cmpfloat(stays.downtime, >, 1);
    clear(&stays);
}

/* A link that is away for longer than all patience is nobody's fault. */
static void
test_stall(void)
{
    Sim sim = {
        .writes = most_of_the_link, .stall_from = 40, .stall_to = 70, .policy = {.give_up = TRUE}};
    assert_left_alone(&sim, 600);
    g_assert_cmpfloat(sim.now, >, 70);
}

/* A round begins 'seconds' after the last, and needs 'need' seconds. */
static DrvConvergeAction
feed(DrvConvergence *c, DrvConvergeSample *s, double seconds, double need)
{
    s->now_us += (gint64)(seconds * G_USEC_PER_SEC);
    s->pass++;
    s->delivery_rate = LINK;
    s->remaining = (guint64)(need * LINK);
    return drv_convergence_sample(c, s).action;
}

/* Two rounds to learn from, and then the third without progress counts, in a row. */
static void
test_counting(void)
{
    static const double quiet[] = {1, 9, 9, 9, 7, 7, 7, 5, 5, 5};
    const DrvConvergePolicy policy = {.downtime_ms = 300, .give_up = TRUE};
    g_autoptr(DrvConvergence) c = drv_convergence_new(&policy);
    DrvConvergeSample s = {.pass = 1};
    for (guint i = 0; i < G_N_ELEMENTS(quiet); i++) {
        g_assert_cmpint(feed(c, &s, 3, quiet[i]), ==, DRV_CONVERGE_CONTINUE);
        g_assert_cmpint(drv_convergence_outlook(c, NULL), ==,
                        i < 3                      ? DRV_CONVERGE_UNKNOWN
                        : quiet[i] == quiet[i - 2] ? DRV_CONVERGE_DOUBTED
                                                   : DRV_CONVERGE_EXPECTED);
    }
    /* Not to be held against it: rounds that are too short to say anything, and a lost link. */
    for (guint i = 0; i < 4; i++)
        g_assert_cmpint(feed(c, &s, 0.5, 4), ==, DRV_CONVERGE_CONTINUE);
    for (guint i = 0; i < 3; i++) {
        s.stalled = TRUE;
        s.now_us += 100 * G_USEC_PER_SEC;
        drv_convergence_sample(c, &s);
        s.stalled = FALSE;
        g_assert_cmpint(feed(c, &s, 3, 60), ==, DRV_CONVERGE_CONTINUE);
    }
    for (guint i = 0; i < 3; i++)
        g_assert_cmpint(feed(c, &s, 3, 6), ==, DRV_CONVERGE_CONTINUE);
    g_assert_cmpint(feed(c, &s, 3, 6), ==, DRV_CONVERGE_GIVE_UP);
    g_assert_cmpint(feed(c, &s, 60, 6), ==, DRV_CONVERGE_CONTINUE);
}

/* Long rounds say as much as several short ones: the second judges, and the third is enough. */
static void
test_long_rounds(void)
{
    const DrvConvergePolicy policy = {.downtime_ms = 300, .give_up = TRUE};
    g_autoptr(DrvConvergence) c = drv_convergence_new(&policy);
    DrvConvergeSample s = {.pass = 1};
    g_assert_cmpint(feed(c, &s, 20, 9), ==, DRV_CONVERGE_CONTINUE);
    g_assert_cmpint(drv_convergence_outlook(c, NULL), ==, DRV_CONVERGE_UNKNOWN);
    g_assert_cmpint(feed(c, &s, 9, 9), ==, DRV_CONVERGE_CONTINUE);
    g_assert_cmpint(drv_convergence_outlook(c, NULL), ==, DRV_CONVERGE_DOUBTED);
    g_assert_cmpint(feed(c, &s, 9, 9), ==, DRV_CONVERGE_GIVE_UP);
}

/* A little less now and then is no reason to think otherwise; much less is, also in small steps. */
static void
test_doubt_stays(void)
{
    const DrvConvergePolicy policy = {.downtime_ms = 300};
    g_autoptr(DrvConvergence) c = drv_convergence_new(&policy);
    DrvConvergeSample s = {.pass = 1};
    for (guint i = 0; i < 5; i++)
        feed(c, &s, 1, 9);
    g_assert_cmpint(drv_convergence_outlook(c, NULL), ==, DRV_CONVERGE_DOUBTED);
    for (double need = 8.7; need > 7.7; need -= 0.3) {
        feed(c, &s, 1, need);
        g_assert_cmpint(drv_convergence_outlook(c, NULL), ==, DRV_CONVERGE_DOUBTED);
    }
    feed(c, &s, 1, 7.4);
    g_assert_cmpint(drv_convergence_outlook(c, NULL), ==, DRV_CONVERGE_EXPECTED);
    for (guint i = 0; i < 3; i++)
        feed(c, &s, 1, 9);
    g_assert_cmpint(drv_convergence_outlook(c, NULL), ==, DRV_CONVERGE_DOUBTED);
    feed(c, &s, 1, 0.2);
    g_assert_cmpint(drv_convergence_outlook(c, NULL), ==, DRV_CONVERGE_EXPECTED);
}

/* A guest that stands still is let alone; odd samples do no harm. */
static void
test_odd(void)
{
    const DrvConvergePolicy policy = {.downtime_ms = 300, .max_downtime_ms = 100, .give_up = TRUE};
    g_autoptr(DrvConvergence) c = drv_convergence_new(&policy);
    DrvConvergeSample s = {.stopped = TRUE, .delivery_rate = 1e9, .remaining = 1u << 31};
    for (guint i = 0; i < 100; i++) {
        s.pass = i;
        s.now_us += G_USEC_PER_SEC;
        g_assert_cmpint(drv_convergence_sample(c, &s).action, ==, DRV_CONVERGE_CONTINUE);
    }
    s = (DrvConvergeSample){.delivery_rate = NAN, .dirty_rate = NAN, .remaining = G_MAXUINT64};
    for (guint i = 0; i < 100; i++) {
        s.pass = i;
        s.now_us = (i % 3) * G_USEC_PER_SEC;
        drv_convergence_sample(c, &s);
    }
    g_assert_cmpint(drv_convergence_outlook(c, NULL), ==, DRV_CONVERGE_UNKNOWN);
    g_assert_cmpuint(drv_convergence_downtime_ms(c), ==, 300);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/convergence/idle", test_idle);
    g_test_add_func("/convergence/linear", test_linear);
    g_test_add_func("/convergence/never", test_never);
    g_test_add_func("/convergence/give-up", test_give_up);
    g_test_add_func("/convergence/hot-set", test_hot_set);
    g_test_add_func("/convergence/throttling", test_throttling);
    g_test_add_func("/convergence/throttling-takes-its-time", test_throttling_takes_its_time);
    g_test_add_func("/convergence/throttled-by-another-means", test_throttled_by_another_means);
    g_test_add_func("/convergence/zeros", test_zeros);
    g_test_add_func("/convergence/long-rounds", test_long_rounds);
    g_test_add_func("/convergence/waves", test_waves);
    g_test_add_func("/convergence/slow-link", test_slow_link);
    g_test_add_func("/convergence/stall", test_stall);
    g_test_add_func("/convergence/counting", test_counting);
    g_test_add_func("/convergence/doubt-stays", test_doubt_stays);
    g_test_add_func("/convergence/odd", test_odd);
    return g_test_run();
}
