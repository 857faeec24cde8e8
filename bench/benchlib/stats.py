# SPDX-License-Identifier: Apache-2.0
"""Median, spread, ratio. Few runs, so the spread is simply the smallest and the largest."""
import dataclasses
import statistics


@dataclasses.dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float
    n: int

    @property
    def width(self):
        return self.high - self.low


def spread(values):
    """None of no values; those that are None do not count."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    return Spread(statistics.median(known), min(known), max(known), len(known))


def ratios(values, base):
    """Spread of value/base, pair by pair: {round: value} each. Rounds that lack one do not count.

    Pairs that ran side by side share what disturbed them, so that the ratio of each is worth more
    than the ratio of two medians.
    """
    return spread(values[r] / base[r] for r in values
                  if values[r] is not None and base.get(r))


def differences(values, base):
    """As ratios(), for value - base."""
    return spread(values[r] - base[r] for r in values
                  if values[r] is not None and base.get(r) is not None)
