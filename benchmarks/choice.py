# SPDX-License-Identifier: Apache-2.0
"""What is run: which workloads, by which peers, how often; and what is not, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.airflow_peers import AIRFLOW, EXPAND
from benchmarks.peers import OURS, RAY
from benchmarks.workloads import CHECK, FULL, MAKERS, QUICK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.peers import Peer
    from benchmarks.workloads import Workload

# Pairs of ours with the loop, and of each other peer.
_PAIRS = {CHECK: (1, 1), QUICK: (2, 1), FULL: (7, 3)}
# Where the models run, the difference between two peers is smaller than that between two runs.
_AS_OFTEN_AS_OURS = ("files", "tensorflow", "csv", "parquet")
_WITHOUT_WORKLOADS = {CHECK: ("tensorflow", "million", "expand"), QUICK: ("million",), FULL: ()}
# Ray takes ten seconds to start and to stop.
_RAY_IN_QUICK = ("files",)


@dataclass(frozen=True)
class Choice:
    """What somebody asks for.

    :param mode: ``check``, ``quick`` or ``full``
    :param workloads: their names; nothing: all of the mode
    :param peers: the same
    :param count: pairs of each peer with the loop; None: as the mode has it
    """

    mode: str
    workloads: Sequence[str] = ()
    peers: Sequence[str] = ()
    count: int | None = None

    def workload_names(self) -> list[str]:
        """Return the workloads to run."""
        without = () if self.workloads else _WITHOUT_WORKLOADS[self.mode]
        return [name for name in self.workloads or MAKERS if name not in without]

    def pairs(self, workload: Workload, peers: Mapping[str, Peer]) -> dict[str, int]:
        """Return the peers that run a workload, and how often."""
        ours, others = _PAIRS[self.mode]
        if self.mode == FULL and workload.name in _AS_OFTEN_AS_OURS:
            others = ours
        return {
            name: self.count or (ours if name == OURS else others)
            for name in workload.peers
            if self.reason_against(workload, peers[name]) is None
        }

    def left_out(self, workload: Workload, peers: Mapping[str, Peer]) -> list[str]:
        """Return the peers that could run a workload and do not, a line each with the reason."""
        reasons = {name: self.reason_against(workload, peers[name]) for name in workload.peers}
        return [f"{workload.name}, {name}: {reason}" for name, reason in reasons.items() if reason]

    def reason_against(self, workload: Workload, peer: Peer) -> str | None:
        """Return why a peer does not run a workload, or None."""
        if self.peers:
            return peer.missing() if peer.name in self.peers else "not asked for"
        quick_enough = peer.name != RAY or workload.name in _RAY_IN_QUICK
        fits = {CHECK: peer.name not in (RAY, AIRFLOW, EXPAND), QUICK: quick_enough, FULL: True}
        return peer.missing() if fits[self.mode] else f"not in {self.mode} mode"
