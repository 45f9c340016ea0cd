# SPDX-License-Identifier: Apache-2.0
"""Runs the peers against the loop, in turn, and checks every output."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.measure import CommandFailedError
from benchmarks.verify import Fingerprint, WrongOutputError, check, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.measure import Bench, Measured
    from benchmarks.peers import Peer, Result
    from benchmarks.workloads import Workload


@dataclass
class Comparison:
    """A peer and the loop on one workload.

    :param loops: what the loop took in each pair
    :param runs: what the peer took right after it
    :param engine: where the engine's seconds were, if the peer is ours
    :param wrong: what is wrong with the peer's output, or why there is none
    """

    workload: Workload
    peer: Peer
    loops: list[Measured] = field(default_factory=list)
    runs: list[Measured] = field(default_factory=list)
    engine: list[Mapping[str, float]] = field(default_factory=list)
    wrong: str = ""

    def ratios(self, part: Callable[[Measured], float]) -> list[float]:
        """Return for each pair how often the loop's seconds go into the peer's."""
        return [part(run) / part(loop) for loop, run in zip(self.loops, self.runs, strict=True)]


class Session:
    """Compares peers with the loop.

    :param bench: where it is done
    :param peers: all peers by their names, the loops too
    """

    def __init__(self, bench: Bench, peers: Mapping[str, Peer]) -> None:
        self._bench = bench
        self._peers = peers
        self._right: dict[str, Fingerprint] = {}

    def compare(self, workload: Workload, pairs: Mapping[str, int]) -> list[Comparison]:
        """Compare peers with the loop: the loop, the first, the loop, the second, and so on, again and again.

        Before it the loop runs once and does not count: it reads libraries and files from the disk, and says
        what the right rows are.

        :param pairs: by the peer's name, how many there shall be
        :raises CommandFailedError: when the loop itself fails
        :raises WrongOutputError: when the loop's own rows are wrong
        """
        found = {name: Comparison(workload, self._peers[name]) for name in pairs}
        if found and workload.name not in self._right:
            self._right[workload.name] = self._warm_up(workload)
        for turn in range(max(pairs.values(), default=0)):
            for name, comparison in found.items():
                if turn < pairs[name] and not comparison.wrong:
                    self._pair(comparison, f"{turn + 1} of {pairs[name]}")
        return list(found.values())

    def _pair(self, comparison: Comparison, which: str) -> None:
        workload, peer = comparison.workload, comparison.peer
        loop = self._run(self._peers[workload.loop], workload).measured
        try:
            result = self._run(peer, workload)
        except (CommandFailedError, WrongOutputError) as error:
            comparison.wrong = str(error)
            say(f"{workload.name:<12}{peer.name:<14}{which}: WRONG OUTPUT: {error}")
            return
        run = result.measured
        comparison.loops.append(loop)
        comparison.runs.append(run)
        comparison.engine.append(result.engine)
        say(
            f"{workload.name:<12}{peer.name:<14}{which}: {run.wall_s:.2f} s, "
            f"{workload.loop} {loop.wall_s:.2f} s, {run.wall_s / loop.wall_s:.2f}"
        )

    def _run(self, peer: Peer, workload: Workload) -> Result:
        result = peer.run(workload.task, self._bench)
        check(result.rows, self._right[workload.name])
        return result

    def _warm_up(self, workload: Workload) -> Fingerprint:
        right = fingerprint(self._peers[workload.loop].run(workload.task, self._bench).rows)
        if right.rows != workload.rows:
            raise WrongOutputError(f"{right.rows} rows for {workload.rows} files")
        return right


def say(line: str) -> None:
    """Tell whoever waits how far it is."""
    print(line, file=sys.stderr, flush=True)
