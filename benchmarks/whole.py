# SPDX-License-Identifier: Apache-2.0
"""The whole benchmark: every workload with every peer, a closer look at ours, then what needs Airflow."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import calibration, experiments, figures, machine
from benchmarks.airflow_peers import AIRFLOW, EXPAND, Deployment, Expand, OnAirflow
from benchmarks.inputs import Inputs
from benchmarks.measure import Bench, CommandFailedError
from benchmarks.peers import LOOP, OURS, Ours, Program, command_peers
from benchmarks.session import Session, say
from benchmarks.table import Report
from benchmarks.verify import WrongOutputError
from benchmarks.workloads import CHECK, FULL, IMAGES_IN_MINI_BATCH, MAKERS, QUICK, Making

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from benchmarks.choice import Choice
    from benchmarks.peers import Peer
    from benchmarks.workloads import Workload

# A command that takes longer hangs.
_LIMIT_S = 3600
_MEMORY_OF = {QUICK: ("files", "noop"), FULL: ("files", "noop", "million", "csv", "parquet")}
# Enough for another worker to come while the first is still at work.
_KILLED_IMAGES = 20_000
_TRACED_MINI_BATCHES = 300
_INTERVAL = "of the median ratio to the loop, by order statistics, with its confidence"


def run(choice: Choice, folder: Path) -> Report:
    """Run what was chosen, and return what was found.

    :param folder: inputs, which stay for the next time, results and Airflow's home
    """
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, _LIMIT_S)
    with Deployment(folder / "airflow", bench) as deployment:
        whole = _Whole(choice, folder, bench, deployment)
        whole.run()
    bench.clear()
    return whole.report


class _Whole:
    def __init__(self, choice: Choice, folder: Path, bench: Bench, deployment: Deployment) -> None:
        self._choice = choice
        self._bench = bench
        self._inputs = Inputs(folder / "inputs")
        images = partial(calibration.images, inputs=self._inputs, bench=bench, kept=folder / "sizes.json")
        self._making = Making(choice.mode, self._inputs, images)
        peers: list[Peer] = [*command_peers(), OnAirflow(deployment), Expand(deployment)]
        self._peers = {peer.name: peer for peer in peers}
        self._session = Session(bench, self._peers)
        self.report = Report({**machine.describe(choice.mode, folder), "interval": _INTERVAL})

    def run(self) -> None:
        say("making the inputs")
        workloads = [MAKERS[name](self._making) for name in self._choice.workload_names()]
        for workload in workloads:
            self.report.left_out += self._choice.left_out(workload, self._peers)
            self._compare(workload, on_airflow=False)
        if self._choice.mode != CHECK:
            self._look_closer(workloads)
        # While Airflow runs, it takes from the others.
        for workload in workloads:
            self._compare(workload, on_airflow=True)

    def _compare(self, workload: Workload, *, on_airflow: bool) -> None:
        pairs = self._choice.pairs(workload, self._peers)
        now = {name: count for name, count in pairs.items() if (name in (AIRFLOW, EXPAND)) == on_airflow}
        with self._noting(f"{workload.name}, {workload.loop}"):
            found = self._session.compare(workload, now)
            self.report.comparisons += found
            self.report.failures += [
                f"{workload.name}, {each.peer.name}: {each.wrong}" for each in found if each.wrong
            ]

    def _look_closer(self, workloads: Iterable[Workload]) -> None:
        """Add what is no race to the report."""
        of_ours = {each.name: each for each in workloads if OURS in self._choice.pairs(each, self._peers)}
        if of_ours:
            say("a closer look at ours: listing, memory, a killed worker, flushes")
        noops = [of_ours[name] for name in (figures.FEW, figures.MANY) if name in of_ours]
        listed = [of_ours[name] for name in (figures.FEW, figures.MANY, *figures.MODELS) if name in of_ours]
        listing_us: dict[str, float] = {}
        with self._noting("listing"):
            listing_us |= {each.name: experiments.listing_us(each.task.folder) for each in listed}
        self.report.figures += figures.from_comparisons(self.report.comparisons, listing_us)
        if "tensorflow" in of_ours:
            with self._noting("a killed worker"):
                task = self._making.script("cnn", self._inputs.images(_KILLED_IMAGES), IMAGES_IN_MINI_BATCH)
                self.report.figures += figures.of_replacement(experiments.replacement(self._bench, task))
        for name in _MEMORY_OF[self._choice.mode]:
            if name in of_ours:
                with self._noting(f"memory, {name}"):
                    self._measure_memory(of_ours[name])
        self.report.figures += figures.of_memory(self.report.memory)
        if noops:
            task = self._making.script("noop", self._inputs.empty(_TRACED_MINI_BATCHES))
            self.report.facts["durability"] = _durability(experiments.flushes(self._bench, task))

    def _measure_memory(self, workload: Workload) -> None:
        pairs = self._choice.pairs(workload, self._peers)
        names = [LOOP, *pairs] if self._choice.mode == FULL else [LOOP, OURS]
        found = {
            name: peer.measure_memory(workload.task, self._bench)
            for name in names
            if isinstance(peer := self._peers[name], (Program, Ours))
        }
        self.report.memory |= {(workload.name, name): memory for name, memory in found.items()}

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Note what goes wrong, and go on with the rest."""
        try:
            yield
        except (CommandFailedError, WrongOutputError) as error:
            self.report.failures.append(f"{what}: {error}")
            say(self.report.failures[-1])


def _durability(flushes: int | None) -> str:
    counted = f"{flushes} calls in a run of {_TRACED_MINI_BATCHES} mini-batches"
    if flushes is None:
        counted = "not counted, as strace cannot be used here"
    return (
        f"on: ours flushes rows, journal and output (fsync, fdatasync: {counted}); the others flush nothing"
    )
