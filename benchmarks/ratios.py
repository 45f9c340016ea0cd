# SPDX-License-Identifier: Apache-2.0
"""What several pairs of runs say together: the median of their ratios, and an interval around it."""

from __future__ import annotations

from math import comb
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A median, and the interval that has the true one with some confidence.

    The interval is from one order statistic to another: it assumes nothing of how the values are spread. It
    is the narrowest with a confidence of at least 95 %; with fewer than six values it is from the smallest to
    the largest, which is less sure.
    """

    median: float
    low: float
    high: float
    confidence: float


def estimate(values: Sequence[float]) -> Estimate:
    """Return the median of some values with its interval."""
    ordered = sorted(values)
    count = len(ordered)
    cut = max((cut for cut in range((count + 1) // 2) if confidence(count, cut) >= _CONFIDENCE), default=0)
    return Estimate(median(ordered), ordered[cut], ordered[count - 1 - cut], confidence(count, cut))


def confidence(count: int, cut: int) -> float:
    """Return how likely the median lies between the values, when so many are cut off at either end."""
    return 1 - 2 * sum(comb(count, below) for below in range(cut + 1)) / 2.0**count
