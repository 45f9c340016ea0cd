# SPDX-License-Identifier: Apache-2.0
"""Follow a run by REST and show how far it is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rich.progress import BarColumn, Progress, TextColumn

from demo.airflow_client import FINISHED_STATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from demo.airflow_client import AirflowClient
    from demo.local_airflow import LocalAirflow

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_BETWEEN_LINES = 3.0


@dataclass(frozen=True)
class Totals:
    """All nodes of a run together, as their ``progress`` keys in the task state store say.

    :param seconds: what the slowest node has taken so far, without Airflow.
    :param first_init_s: when the first process of any node was ready; part of ``seconds``.
    """

    mini_batches: int = 0
    done: int = 0
    items_failed: int = 0
    seconds: float = 0.0
    first_init_s: float | None = None

    @classmethod
    def of(cls, nodes: Sequence[dict[str, Any]]) -> Totals:
        """Add up the nodes."""
        ready = [node["first_init_s"] for node in nodes if node["first_init_s"] is not None]
        return cls(
            mini_batches=max((node["mini_batches_total"] for node in nodes), default=0),
            done=sum(node["mini_batches_done"] for node in nodes),
            items_failed=sum(node["items_failed"] for node in nodes),
            seconds=max((node["seconds"] for node in nodes), default=0.0),
            first_init_s=min(ready, default=None),
        )

    def __str__(self) -> str:
        """Say items failed, rate and time left."""
        text = f"{self.items_failed} items failed"
        if not self.done:
            return text
        rate = self.done / max(self.seconds - (self.first_init_s or 0.0), 1e-3)
        missing = self.mini_batches - self.done
        return f"{text}, {rate:.3g} mini-batches/s" + (f", {missing / rate:.0f} s left" if missing else "")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    :param run: what Airflow says about the run.
    :param tasks: what Airflow says about its task instances.
    """

    run: dict[str, Any]
    tasks: list[dict[str, Any]]
    totals: Totals


class Display(Protocol):
    """Where progress is shown."""

    def show(self, phase: str, totals: Totals) -> None:
        """Show it, or leave it for later."""

    def close(self) -> None:
        """Show what was left for later."""


def follow(airflow: LocalAirflow, dag_id: str, run_id: str, step: str, display: Display) -> Outcome:
    """Show the run's progress until it ends.

    :param step: the task id of the ParallelRunOperator.
    :raises LocalAirflowError: when a part of Airflow has ended, so that the run would never end
    """
    try:
        while True:
            airflow.check_alive()
            outcome = _look(airflow.client, dag_id, run_id, step)
            display.show(_phase(outcome, step), outcome.totals)
            if outcome.run["state"] in FINISHED_STATES:
                return outcome
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        display.close()


def _look(client: AirflowClient, dag_id: str, run_id: str, step: str) -> Outcome:
    # The run first: when it has ended, what is read after it is final.
    run = client.dag_run(dag_id, run_id)
    tasks = client.task_instances(dag_id, run_id)
    states = [
        client.task_state(dag_id, run_id, task["task_id"], task["map_index"], "progress")
        for task in tasks
        if task["task_id"] == f"{step}.run" and task["map_index"] >= 0 and task["start_date"]
    ]
    return Outcome(run, tasks, Totals.of([state for state in states if state]))


def _phase(outcome: Outcome, step: str) -> str:
    totals = outcome.totals
    planned = {task["task_id"] for task in outcome.tasks if task["state"] == "success"}
    if f"{step}.split" not in planned:
        return "planning"
    if totals.first_init_s is None:
        return "starting processes"
    return "inference" if totals.done < totals.mini_batches else "publishing"


def display_for(console: Console) -> Display:
    """Return a bar on a terminal, else lines."""
    return _Bar(console) if console.is_terminal and not console.is_dumb_terminal else _Lines(console)


def _line(phase: str, totals: Totals) -> str:
    if totals.first_init_s is None:
        return f"{phase} …"
    return f"{totals.done} of {totals.mini_batches} mini-batches done, {totals}"


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""
        self._pending = ""
        self._phase = ""
        self._next = 0.0

    def show(self, phase: str, totals: Totals) -> None:
        self._pending = _line(phase, totals)
        if phase != self._phase or time.monotonic() >= self._next:
            self._phase = phase
            self.close()

    def close(self) -> None:
        if self._pending != self._last:
            self._console.print(f"      {self._pending}", highlight=False, soft_wrap=True)
            self._last = self._pending
            self._next = time.monotonic() + _SECONDS_BETWEEN_LINES


class _Bar:
    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("     "), BarColumn(30), TextColumn("{task.description}"), console=console
        )
        self._task = self._bar.add_task("", total=None)
        self._bar.start()

    def show(self, phase: str, totals: Totals) -> None:
        self._bar.update(
            self._task,
            description=_line(phase, totals),
            completed=totals.done,
            total=totals.mini_batches or None,
        )

    def close(self) -> None:
        self._bar.stop()
