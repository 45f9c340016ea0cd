# SPDX-License-Identifier: Apache-2.0
"""What the demo says about a run when it has ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from demo.airflow_client import AirflowClient
    from demo.progress import Outcome

_CAUSE_LINES = 40


@dataclass(frozen=True)
class Predictions:
    """The rows of an output file, sorted by file name.

    :param rows: file name and digit.
    """

    rows: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, text: str) -> Predictions:
        """Parse the ``<file name>: <digit>`` lines that the entry script returned."""
        pairs = (line.partition(": ") for line in text.splitlines())
        return cls(tuple(sorted((name, digit) for name, _, digit in pairs)))

    def table(self, first: int) -> Table:
        """Return the first rows as a table."""
        table = Table("Filename", "Prediction", box=box.SIMPLE_HEAD)
        for name, digit in self.rows[:first]:
            table.add_row(name, digit)
        return table

    def accuracy(self, labels: Mapping[str, str]) -> float:
        """Return the share of rows that agree with the known labels."""
        right = sum(labels.get(name) == digit for name, digit in self.rows)
        return right / max(len(self.rows), 1)


def seconds_of_run(outcome: Outcome) -> float:
    """Return how long Airflow took for the run, from its start to its end."""
    start, end = (datetime.fromisoformat(outcome.run[key]) for key in ("start_date", "end_date"))
    return (end - start).total_seconds()


def cause_of_failure(client: AirflowClient, outcome: Outcome) -> str:
    """Return the exception of the task that failed first, from its log."""
    failed = [task for task in outcome.tasks if task["state"] == "failed"]
    if not failed:
        return f"The run ended as {outcome.run['state']}, and no task failed."
    task = min(failed, key=lambda task: str(task["end_date"]))
    place = task["dag_id"], task["dag_run_id"], task["task_id"], task["map_index"], task["try_number"]
    index = f" (node {task['map_index']})" if task["map_index"] >= 0 else ""
    return "\n".join([f"Task {task['task_id']}{index} failed:", *_exception_lines(client.logs(*place))])


def _exception_lines(messages: list[dict[str, Any]]) -> list[str]:
    for message in reversed(messages):
        # A chain, outermost first. AirflowFailException only repeats the message of what it was raised from.
        chain = message.get("error_detail") or []
        telling = [error for error in chain if error["exc_type"] != "AirflowFailException"] or chain
        if telling:
            lines = f"{telling[0]['exc_type']}: {telling[0]['exc_value']}".splitlines()
            if len(lines) > _CAUSE_LINES:
                # What it is stands first, and where it came from and the log last.
                lines = [*lines[:3], "…", *lines[-_CAUSE_LINES:]]
            return [f"  {line}" for line in lines]
    events = [str(message["event"]) for message in messages if not re.match("::", str(message["event"]))]
    return [f"  {event}" for event in events[-_CAUSE_LINES:]]
