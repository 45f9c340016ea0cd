# SPDX-License-Identifier: Apache-2.0
"""The lines about ours beside its targets, from the comparisons and the experiments."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.peers import LOOP, OURS, OURS_4

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from benchmarks.experiments import Replacement
    from benchmarks.measure import Measured
    from benchmarks.processes import Memory
    from benchmarks.session import Comparison

SMALL, FEW, MANY = "small", "noop", "million"
MODELS = "files", "tensorflow"
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
    ours = [each for each in comparisons if each.peer.name in (OURS, OURS_4) and each.runs]
    by_name = {each.workload.name: each for each in ours if each.peer.name == OURS}
    if SMALL in by_name:
        yield from _small(by_name[SMALL])
        for name in MODELS:
            if name in by_name:
                yield from _beyond(by_name[name], by_name[SMALL], listing_us.get(name))
    for name in (FEW, MANY):
        if name in by_name and name in listing_us:
            yield from _noop(by_name[name], listing_us[name])
    if by_name.keys() & listing_us.keys() >= {FEW, MANY}:
        yield _further(by_name[FEW], by_name[MANY], listing_us[MANY])
    if "output" in by_name:
        yield _output(by_name["output"])
    yield from (_skew(comparison) for comparison in ours if comparison.workload.seconds)


def of_replacement(found: Replacement) -> Iterator[Figure]:
    """Yield the figures of a worker that is killed."""
    yield Figure("tensorflow: cold start, from a command to the end of its init()", found.cold_s, "s")
    yield Figure(
        "tensorflow: from the kill of a worker to the end of the next one's init()",
        found.killed_s,
        "s",
        found.cold_s / 10,
    )


def of_memory(found: Mapping[tuple[str, str], Memory]) -> Iterator[Figure]:
    """Yield the figures of memory.

    :param found: by workload and peer
    """
    for (name, peer), ours in found.items():
        if peer == OURS:
            over_mb = ours.others_mb - found[name, LOOP].others_mb
            yield Figure(f"{name}: memory without the workers, over the loop's", over_mb, "MB", 120)
    if {(FEW, OURS), (MANY, OURS)} <= found.keys():
        more_mb = found[MANY, OURS].others_mb - found[FEW, OURS].others_mb
        yield Figure(f"from {FEW} to {MANY}: memory without the workers, more", more_mb, "MB")


def _small(comparison: Comparison) -> Iterator[Figure]:
    yield Figure(f"{SMALL}: {_FIXED}, the loop's", median(_fixed(comparison.loops)), "s")
    yield Figure(f"{SMALL}: {_FIXED}", median(_fixed(comparison.runs)), "s", 0.5)


def _beyond(comparison: Comparison, small: Comparison, listing_us: float | None) -> Iterator[Figure]:
    fixed_s = median(_fixed(small.runs))
    workload = comparison.workload
    what = f"{workload.name}: wall time beyond the fixed cost of {SMALL}"
    yield Figure(f"{what}, times the loop's wall time", _times(comparison, fixed_s), "times")
    if listing_us is not None:
        apart_s = fixed_s + workload.rows * listing_us / 1e6
        times = _times(comparison, apart_s)
        yield Figure(f"{what} and of listing, times the loop's wall time", times, "times", 1.05)


def _times(comparison: Comparison, apart_s: float) -> float:
    pairs = zip(comparison.runs, comparison.loops, strict=True)
    return median((run.wall_s - apart_s) / loop.wall_s for run, loop in pairs)


def _noop(comparison: Comparison, listing_us: float) -> Iterator[Figure]:
    name, count = comparison.workload.name, comparison.workload.rows
    yield Figure(f"{name}: listing, for each file", listing_us, "µs", 5)
    plan, engine = "plan, without the listing", comparison.engine
    seconds = {
        plan: [each["split_s"] for each in engine],
        "node, from the first init() on": [each["node_s"] - each["first_init_s"] for each in engine],
        "reduce": [each["reduce_s"] for each in engine],
    }
    each_us = {what: median(values) / count * 1e6 for what, values in seconds.items()}
    each_us[plan] -= listing_us
    for what, value in each_us.items():
        yield Figure(f"{name}: {what}, for each mini-batch", value, "µs")
    yield Figure(f"{name}: these three together", sum(each_us.values()), "µs", 10)


def _further(few: Comparison, many: Comparison, listing_us: float) -> Figure:
    """Return what each further mini-batch costs: what does not grow with their number is not in it."""
    few_s, many_s = (median(run.wall_s for run in each.runs) for each in (few, many))
    each_us = (many_s - few_s) / (many.workload.rows - few.workload.rows) * 1e6 - listing_us
    return Figure(f"from {FEW} to {MANY}: each further mini-batch, without the listing", each_us, "µs", 10)


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
