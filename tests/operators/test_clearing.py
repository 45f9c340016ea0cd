# SPDX-License-Identifier: Apache-2.0
"""What a person is told to clear. tests/on_airflow makes these very calls."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow_parallelrun.exceptions import OutputExistsError, ThresholdExceededError
from airflow_parallelrun.operators.clearing import calls, ended_before, sibling, what_to_do

DATE = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
TASKS = ("predict.split", "predict.run", "predict.reduce", "after")


def context(
    date: datetime | None = DATE, tasks: tuple[str, ...] = TASKS, states: dict[str, str | None] | None = None
) -> Any:
    """What Airflow hands to a task, as far as it is looked at."""
    ti = SimpleNamespace(
        dag_id="my dag",
        run_id="manual__1",
        get_task_states=lambda **_: {"manual__1": states} if states else {},
    )
    dag, dag_run = SimpleNamespace(task_ids=list(tasks)), SimpleNamespace(logical_date=date)
    return {"ti": ti, "dag": dag, "dag_run": dag_run}


def test_a_task_of_the_same_step() -> None:
    assert sibling("night.predict.reduce", "run") == "night.predict.run"


def test_the_calls() -> None:
    ui, rest, command = calls("predict.run", context()).splitlines()
    assert ui == "  UI: predict.run, Clear, with Downstream and without Clear only failed tasks"
    start, _, body = rest.partition(" {")
    assert start == "  REST: POST /api/v2/dags/my%20dag/clearTaskInstances"
    assert json.loads("{" + body) == {
        "dry_run": False,
        "dag_run_id": "manual__1",
        "task_ids": ["predict.run"],
        "include_downstream": True,
        "only_failed": False,
    }
    assert command == (
        "  command: airflow tasks clear 'my dag' --task-regex predict.run --downstream "
        "--start-date 2026-01-02T03:04:05.678901+00:00 --end-date 2026-01-02T03:04:05.678901+00:00 --yes"
    )


def test_without_a_date_the_command_would_clear_every_run() -> None:
    assert "command" not in calls("predict.run", context(date=None))


def test_the_command_is_left_out_where_it_would_clear_another_step() -> None:
    assert "command" not in calls("predict.run", context(tasks=(*TASKS, "night.predict.run")))


def test_failures_that_another_try_can_change_are_the_nodes() -> None:
    text = what_to_do(ThresholdExceededError(["x"], "y", left=3), "predict.reduce", context())
    assert "clear predict.run with its downstream tasks, also where it is green" in text
    assert "the 3 mini-batches that failed or were not processed" in text
    assert '"task_ids": ["predict.run"]' in text
    assert "clear predict.split instead" in text


def test_where_nothing_is_left_only_a_new_plan_helps() -> None:
    text = what_to_do(ThresholdExceededError(["x"], "y"), "predict.reduce", context())
    assert '"task_ids": ["predict.split"]' in text
    assert "predict.run" not in text


def test_a_file_in_the_way_concerns_reduce_alone() -> None:
    text = what_to_do(OutputExistsError("/out/rows.txt"), "predict.reduce", context())
    assert text.startswith("When that is done, clear predict.reduce with its downstream tasks.\n")


def test_what_has_ended_and_will_not_run() -> None:
    later = ["predict.run", "predict.reduce"]
    assert ended_before(later, context(states=None)) == []
    fresh: dict[str, str | None] = {"predict.run": None, "predict.reduce": None}
    assert ended_before(later, context(states=fresh)) == []
    mapped: dict[str, str | None] = {"predict.run_0": None, "predict.run_1": "failed", "predict.reduce": None}
    assert ended_before(later, context(states=mapped)) == ["predict.run"]
    skipped: dict[str, str | None] = {"predict.run_0": "running", "predict.reduce": "skipped"}
    assert ended_before(later, context(states=skipped)) == ["predict.reduce"]
