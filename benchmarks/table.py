# SPDX-License-Identifier: Apache-2.0
"""The report, in Markdown for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.peers import PROCESSES
from benchmarks.ratios import Estimate, estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.figures import Figure
    from benchmarks.measure import Measured
    from benchmarks.processes import Memory
    from benchmarks.session import Comparison


@dataclass
class Report:
    """Everything that was found.

    :param facts: what the figures depend on
    :param comparisons: of peers with the loop
    :param figures: of ours
    :param memory: by workload and peer
    :param left_out: what was not run, and why
    :param failures: wrong outputs, and what has not worked at all
    """

    facts: dict[str, str] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    memory: dict[tuple[str, str], Memory] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Return all tables."""
        parts = [table(("what", "value"), self.facts.items()), *self._workloads()]
        if self.figures:
            parts += ["### Ours and its targets"]
            parts += [table(("what", "measured", "target", "met"), map(_figure, self.figures))]
        if self.memory:
            head = "workload", "peer", "whole tree, MB", "without the workers, MB"
            parts += ["### Memory, peak PSS", table(head, self._memory_rows())]
        if self.left_out:
            parts += ["### Left out", "\n".join(f"- {line}" for line in self.left_out)]
        if self.failures:
            lines = [failure.strip().replace("\n", "\n  ") for failure in self.failures]
            parts += ["### Failures", "\n".join(f"- {line}" for line in lines)]
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {
            "format_version": 1,
            "facts": self.facts,
            "comparisons": [_comparison(each) for each in self.comparisons],
            "figures": [{**each._asdict(), "met": each.is_met} for each in self.figures],
            "memory": [
                {"workload": workload, "peer": peer, **dataclasses.asdict(memory)}
                for (workload, peer), memory in self.memory.items()
            ],
            "left_out": self.left_out,
            "failures": self.failures,
        }

    def _workloads(self) -> Iterable[str]:
        by_name: dict[str, list[Comparison]] = {}
        for comparison in self.comparisons:
            by_name.setdefault(comparison.workload.name, []).append(comparison)
        for name, comparisons in by_name.items():
            workload = comparisons[0].workload
            head = ["peer", "runs", "wall, s", "times loop", "interval", "CPU, s", "CPU, times loop"]
            head += ["ideal, s", "times ideal"] if workload.seconds else []
            yield f"### {name}"
            yield workload.title[0].upper() + workload.title[1:] + "."
            yield table(head, [_loop(comparisons), *map(_peer, comparisons)])

    def _memory_rows(self) -> Iterable[tuple[str, ...]]:
        for (workload, peer), memory in self.memory.items():
            yield workload, peer, f"{memory.tree_mb:.0f}", f"{memory.others_mb:.0f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _loop(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the line of the loop, from all of its runs."""
    workload = comparisons[0].workload
    runs = [run for comparison in comparisons for run in comparison.loops]
    return _line(workload.loop, runs, ["1", "", "1"], workload.ideal_s(PROCESSES))


def _peer(comparison: Comparison) -> list[str]:
    """Return the line of a peer."""
    peer = comparison.peer
    if comparison.wrong or not comparison.runs:
        return [peer.name, "**WRONG OUTPUT**"]
    wall = estimate(comparison.ratios(lambda run: run.wall_s))
    cpu = median(comparison.ratios(lambda run: run.cpu_s))
    times = [f"{wall.median:.2f}", _interval(wall), f"{cpu:.2f}"]
    return _line(peer.name, comparison.runs, times, comparison.workload.ideal_s(peer.processes))


def _line(name: str, runs: Sequence[Measured], times: Sequence[str], ideal_s: float | None) -> list[str]:
    if not runs:
        return [name, "0"]
    wall_s, cpu_s = median(run.wall_s for run in runs), median(run.cpu_s for run in runs)
    line = [name, str(len(runs)), f"{wall_s:.2f}", times[0], times[1], f"{cpu_s:.2f}", times[2]]
    if ideal_s is not None:
        line += [f"{ideal_s:.2f}", f"{median(run.span_s for run in runs) / ideal_s:.2f}"]
    return line


def _interval(wall: Estimate) -> str:
    return f"{wall.low:.2f} to {wall.high:.2f} ({wall.confidence:.0%})" if wall.confidence else ""


def _figure(figure: Figure) -> list[str]:
    target = ""
    if figure.target is not None:
        target = f"{'at least' if figure.at_least else 'at most'} {figure.target:.3g} {figure.unit}"
    met = {None: "", True: "yes", False: "no"}[figure.is_met]
    return [figure.what, f"{figure.value:.3g} {figure.unit}", target, met]


def _comparison(comparison: Comparison) -> dict[str, Any]:
    workload, peer = comparison.workload, comparison.peer
    return {
        "workload": workload.name,
        "title": workload.title,
        "peer": peer.name,
        "loop": workload.loop,
        "ideal_s": workload.ideal_s(peer.processes),
        "wrong": comparison.wrong,
        "loops": [dataclasses.asdict(run) for run in comparison.loops],
        "runs": [dataclasses.asdict(run) for run in comparison.runs],
        "engine": [dict(each) for each in comparison.engine],
        "ratio": estimate(comparison.ratios(lambda run: run.wall_s))._asdict() if comparison.runs else None,
    }
