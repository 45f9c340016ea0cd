# SPDX-License-Identifier: Apache-2.0
"""What a node shows of what it runs where the run directory is in an object store, and what is made of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from fake_process import FakeProcess

from airflow_parallelrun.engine import long_runs
from airflow_parallelrun.engine.history import read_history
from airflow_parallelrun.engine.long_runs import LongRuns
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.portions import Portion
from airflow_parallelrun.engine.rounds import start_attempt
from airflow_parallelrun.worker import page

if TYPE_CHECKING:
    from pathlib import Path

    import storage_servers
    from conftest import Job


class Node:
    """A node with fake processes, and the pages that it shows."""

    def __init__(self, folder: Path, processes: int = 1, after_loss: bool = False) -> None:
        self.pages: dict[str, bytes] = {}
        self.puts = 0
        self.processes = [FakeProcess(number, folder / f"page{number}") for number in range(processes)]
        self.long_runs = LongRuns(self, Attempt(0, 2), after_loss)

    def put(self, name: str, content: bytes) -> None:
        self.pages[name] = content
        self.puts += 1

    def looks(self) -> dict[int, bool]:
        """Have it look, and return the mini-batches that it shows, and whether any attempt would."""
        self.long_runs._next = 0.0
        self.long_runs.look(self.processes)
        return self.shown()

    def shown(self) -> dict[int, bool]:
        states = {content: page.last_state(content) for content in self.pages.values()}
        return {
            state.ordinal: long_runs.is_shown_by_all(content)
            for content, state in states.items()
            if state.phase == page.RUN
        }


@pytest.fixture
def node(tmp_path):
    made = []

    def make(*args, **kwargs):
        made.append(Node(tmp_path, *args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        for process in each.processes:
            process.close()


def test_what_runs_for_5_s_is_shown_until_it_is_over(node):
    node = node(2)
    first, second = node.processes
    first.feed([Portion(7)])
    second.feed([Portion(8)])
    first.runs(0)
    second.runs(0, page.LOAD, seconds_ago=6)
    assert node.looks() == {8: False}
    second.runs(0, page.WRITE)  # the same mini-batch, in its next phase
    assert node.looks() == {8: False}
    assert node.puts == 1
    second.runs(0, page.WRITE, seconds_ago=12)
    assert node.looks() == {8: True}
    second.page.write(page.IDLE)
    second.in_flight.take(0)
    first.runs(0, seconds_ago=12)
    assert node.looks() == {7: True}
    node.processes.remove(first)
    assert node.looks() == {}
    first.close()


def test_processes_that_do_nothing_cost_no_request(node):
    node = node(2, after_loss=True)
    first, second = node.processes
    for process, phase in ((first, page.IDLE), (second, page.INIT)):
        process.says(phase, seconds_ago=100)
    assert node.looks() == {}
    node.long_runs.announce(first, Portion(8, alone=True))
    assert node.puts == 1


def test_between_two_looks_no_time_is_lost_on_it(node):
    node = node()
    (process,) = node.processes
    process.feed([Portion(7)])
    node.long_runs.look(node.processes)
    process.runs(0, seconds_ago=6)
    node.long_runs.look(node.processes)
    assert node.shown() == {}
    assert node.looks() == {7: False}
    assert node.long_runs._next < time.monotonic() + 1  # so that it is soon noticed when it is over


def test_after_a_loss_what_is_short_is_shown_too_for_a_minute_of_work(node):
    node = node(after_loss=True)
    (process,) = node.processes
    node.looks()
    assert node.long_runs._quick_until == float("inf")  # its files are still being copied
    process.feed([Portion(7), Portion(8)])
    process.runs(0, seconds_ago=-1000)
    assert node.looks() == {}
    assert node.long_runs._quick_until <= time.monotonic() + long_runs.QUICK_FOR_S
    process.runs(0, seconds_ago=0.2)
    assert node.looks() == {7: False}
    process.runs(1, seconds_ago=1)
    assert node.looks() == {8: False}
    node.long_runs._quick_until = 0.0
    process.feed([Portion(9)])
    assert node.looks() == {8: False}
    process.runs(2)
    assert node.looks() == {}


def test_what_runs_alone_is_shown_before_it_begins_and_nothing_else_is(node):
    node = node(2)
    first, second = node.processes
    first.feed([Portion(7)])
    first.runs(0, seconds_ago=12)
    assert node.looks() == {7: True}
    first.page.write(page.IDLE)
    first.in_flight.take(0)
    alone = Portion(8, alone=True)
    node.long_runs.announce(second, alone)
    assert node.shown() == {8: False}
    second.feed([alone])
    assert node.looks() == {8: False}  # it has not begun
    second.runs(0)
    assert node.looks() == {8: False}
    second.runs(0, seconds_ago=12)
    assert node.looks() == {8: True}
    second.page.write(page.IDLE)
    second.in_flight.take(0)
    assert node.looks() == {}


def test_how_many_lost_attempts_speak_against_a_mini_batch(
    job: Job, echo: str, azure_store: storage_servers.ObjectStore
) -> None:
    """The first one may have been running anything that is short, and would have shown anything else."""
    job.files(9).split(echo, output=f"{azure_store.url}/out")
    plan = job.plan
    long, short = True, False
    for running in (
        {0: long, 1: short, 2: long},
        {0: long, 3: long, 4: short, 5: short},
        {0: long, 4: long, 5: short, 6: short, 7: long},
    ):
        started = start_attempt(plan.store, 0)
        for number, (ordinal, by_all) in enumerate(running.items()):
            shown = long_runs._Shown(0, ordinal, by_all)
            plan.store.put(f"pages/{started.attempt}-{number}", shown.content())
    history = read_history(plan, start_attempt(plan.store, 0))
    assert len(history.lost) == 3
    assert [history.suspicion(ordinal) for ordinal in range(9)] == [3, 1, 1, 1, 3, 3, 2, 1, 0]
    assert [history.deaths[ordinal] for ordinal in range(9)] == [3, 1, 1, 1, 2, 2, 1, 1, 0]
