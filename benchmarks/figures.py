# SPDX-License-Identifier: Apache-2.0
"""The lines about ours beside its targets, from the comparisons and the experiments."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.peers import OURS, OURS_4

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from benchmarks.experiments import Replacement
    from benchmarks.measure import Measured
    from benchmarks.processes import Memory
    from benchmarks.session import Comparison

_MODELS = "files", "tensorflow"
NOOPS = "noop", "million"
_FIXED = "before the first init() and after the last run()"


class Figure(NamedTuple):
    """One line.

    :param what: what was measured
    :param value: how much, in ``unit``
    :param target: what was set as the most, or with ``at_least`` as the least; None where nothing was
    """

    what: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False

    @property
    def is_met(self) -> bool | None:
        """Tell whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def from_comparisons(comparisons: Iterable[Comparison], listing_us: Mapping[str, float]) -> Iterator[Figure]:
    """Yield the figures that are in the comparisons with ours.

    :param listing_us: by workload, how long the listing takes for each file
    """
    comparisons = list(comparisons)
    for comparison in comparisons:
        name = comparison.workload.name
        if comparison.peer.name not in (OURS, OURS_4) or not comparison.runs:
            continue
        if name in _MODELS:
            yield from _model(comparison)
        elif name in listing_us:
            yield from _noop(comparison, listing_us[name])
        elif name == "output":
            yield _output(comparison)
        elif comparison.workload.seconds:
            yield _skew(comparison)
    by_name = {each.workload.name: each for each in comparisons if each.peer.name == OURS and each.runs}
    if by_name.keys() & listing_us.keys() >= set(NOOPS):
        yield _further(*(by_name[name] for name in NOOPS), listing_us[NOOPS[-1]])


def of_replacement(found: Replacement) -> Iterator[Figure]:
    """Yield the figures of a worker that is killed."""
    yield Figure("tensorflow: cold start, from a command to the end of its init()", found.cold_s, "s")
    yield Figure(
        "tensorflow: from the kill of a worker to the end of the next one's init()",
        found.killed_s,
        "s",
        found.cold_s / 10,
    )


def of_memory(name: str, loop: Memory, ours: Memory) -> Iterator[Figure]:
    """Yield the figures of memory."""
    over_mb = ours.others_mb - loop.others_mb
    yield Figure(f"{name}: memory without the workers, over the loop's", over_mb, "MB", 120)
    yield Figure(f"{name}: memory of the whole tree, over the loop's", ours.tree_mb - loop.tree_mb, "MB")


def _model(comparison: Comparison) -> Iterator[Figure]:
    name = comparison.workload.name
    over_s = median(_fixed(comparison.runs)) - median(_fixed(comparison.loops))
    yield Figure(f"{name}: {_FIXED}, over the loop's", over_s, "s", 0.5)
    between = median(comparison.ratios(lambda each: each.span_s))
    yield Figure(f"{name}: between first init() and last run(), of the loop's", between, "times", 1.05)


def _noop(comparison: Comparison, listing_us: float) -> Iterator[Figure]:
    name, count = comparison.workload.name, comparison.workload.rows
    yield Figure(f"{name}: {_FIXED}, the loop's", median(_fixed(comparison.loops)), "s")
    yield Figure(f"{name}: {_FIXED}", median(_fixed(comparison.runs)), "s", 0.5)
    yield Figure(f"{name}: listing, for each file", listing_us, "µs", 5)
    seconds = {
        "plan, without the listing": [each["split_s"] for each in comparison.engine],
        "node, from the first init() on": [
            each["node_s"] - each["first_init_s"] for each in comparison.engine
        ],
        "reduce": [each["reduce_s"] for each in comparison.engine],
    }
    each_us = {what: median(values) / count * 1e6 for what, values in seconds.items()}
    each_us["plan, without the listing"] -= listing_us
    for what, value in each_us.items():
        yield Figure(f"{name}: {what}, for each mini-batch", value, "µs")
    yield Figure(f"{name}: these three together", sum(each_us.values()), "µs", 10)


def _further(few: Comparison, many: Comparison, listing_us: float) -> Figure:
    """Return what each further mini-batch costs: what does not grow with their number is not in it."""
    few_s, many_s = (median(run.wall_s for run in each.runs) for each in (few, many))
    each_us = (many_s - few_s) / (many.workload.rows - few.workload.rows) * 1e6 - listing_us
    return Figure("from noop to million: each further mini-batch, without the listing", each_us, "µs", 10)


def _skew(comparison: Comparison) -> Figure:
    ideal_s = comparison.workload.ideal_s(comparison.peer.processes)
    assert ideal_s is not None
    times = median(run.span_s for run in comparison.runs) / ideal_s
    who = f"{comparison.workload.name}, {comparison.peer.name}"
    return Figure(
        f"{who}: between first init() and last run(), of the ideal",
        times,
        "times",
        1.10 if comparison.peer.name == OURS else 1.15,
    )


def _output(comparison: Comparison) -> Figure:
    width = int(comparison.workload.task.environment["BENCHMARK_ROW_BYTES"])
    seconds = median(each["reduce_s"] for each in comparison.engine)
    rate = comparison.workload.rows * width / seconds / 1e9
    return Figure("output: rows through reduce, flushed", rate, "GB/s", 1, at_least=True)


def _fixed(runs: Iterable[Measured]) -> list[float]:
    return [run.fixed_s for run in runs]
