# SPDX-License-Identifier: Apache-2.0
"""The fastest writer that each system can still move: where pre-copy stops converging.

Rates are steps of a ladder, each a quarter above the one before. A system climbs from where it
surely gets by taking four steps at a time, and then halves what is left, on the assumption that
who fails at a rate fails at all above; the last step that it takes it has to take twice.
"""
import dataclasses

from .guests import Recipe

STEP, STRIDE = 1.25, 4
FIRST, STEPS = 2.0, 24  # pages a ms; up to 340, more than a guest writes
# A guest that writes less than this of what it was told to is at its own limit.
SATURATED = 0.8
# The guest's clock and QEMU's differ by so much on a machine that does other things.
SLACK_MS = 50

GUESTS = {
    "sparse": Recipe("two words written in each of 65,536 pages, over and over", mode="sparse",
                     working_set=256),
    "rewrite": Recipe("65,536 whole pages of compressible content, over and over", mode="rewrite",
                      working_set=256),
}


def rate(step):
    """Pages a ms, a whole number of them."""
    return round(FIRST * STEP ** step)


def recipe(guest, step):
    return dataclasses.replace(GUESTS[guest], rate=rate(step))


def moved(metrics, downtime_ms):
    """Whether a run kept what was asked of it: it ended, and the guest was down no longer."""
    return metrics["converged"] and metrics["total_s"] is not None \
        and metrics["downtime_felt_ms"] <= downtime_ms + SLACK_MS


def saturated(metrics, step):
    """Whether the guest cannot write that fast, or was not seen to: no step above says more."""
    return (metrics["work_before"] or 0) < SATURATED * 1000 * rate(step)


def climb(attempt, steps=STEPS):
    """(highest step that holds twice, -1 if none; whether there was nothing left to climb).

    attempt(step) says (whether it holds, whether the guest was at its own limit).
    """
    good, bad, limit = -1, steps, False
    while bad - good > 1:
        step = good + STRIDE if bad == steps and good + STRIDE < steps else (good + bad) // 2
        holds, saturated_here = attempt(step)
        if not holds:
            bad = step
        else:
            good, limit = step, saturated_here
            if limit:
                bad = step + 1
    times = 1  # it has held once; the steps below it perhaps never
    while good >= 0 and not all(attempt(good)[0] for _ in range(times)):
        good, limit, times = good - 1, False, 2
    return good, limit or good == steps - 1
