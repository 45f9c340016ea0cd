# SPDX-License-Identifier: Apache-2.0
"""What a person has to clear so that a run goes on, with the exact calls."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_parallelrun.exceptions import NotRedrivenError, VerdictError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from airflow_parallelrun.exceptions import ParallelRunError

ENDED = frozenset({"success", "failed", "upstream_failed", "skipped"})


def sibling(task_id: str, name: str) -> str:
    """Return the id of another task of the same step."""
    return f"{task_id.rpartition('.')[0]}.{name}"


def what_to_do(failure: ParallelRunError, reduce_id: str, context: Context) -> str:
    """Return what goes on with a job that has failed.

    :param failure: why; when it is not the verdict, the output could not be published
    :param reduce_id: the id of the reduce task
    """
    run_id, split_id = sibling(reduce_id, "run"), sibling(reduce_id, "split")
    if not isinstance(failure, VerdictError):
        return f"When that is done, clear {reduce_id} with its downstream tasks.\n{calls(reduce_id, context)}"
    if not failure.left:
        return (
            "Every mini-batch has been processed, so only a new plan can change this. When script, "
            f"parameters or input have changed, clear {split_id} with its downstream tasks.\n"
            f"{calls(split_id, context)}"
        )
    otherwise = "A changed script, parameter or input needs a new plan, and everything is done again"
    if isinstance(failure, NotRedrivenError):
        otherwise = "A changed script or parameter counts when the redrive is asked for anew"
    return (
        f"When the cause is gone, clear {run_id} with its downstream tasks, also where it is green: that "
        f"runs the {failure.left} mini-batches that failed or were not processed, and keeps the others.\n"
        f"{calls(run_id, context)}\n"
        f"{otherwise}: clear {split_id} instead, in the same way."
    )


def calls(task_id: str, context: Context) -> str:
    """Return how to clear a task of this DAG run, and what is downstream of it.

    In the UI, by REST and by command. The command knows runs by their logical date alone, and takes what it
    calls a regular expression as a part of task ids: where it would miss, or clear others, it is left out.
    """
    ti, date = context["ti"], context["dag_run"].logical_date
    body = {
        "dry_run": False,
        "dag_run_id": ti.run_id,
        "task_ids": [task_id],
        "include_downstream": True,
        "only_failed": False,
    }
    lines = [
        f"  UI: {task_id}, Clear, with Downstream and without Clear only failed tasks",
        f"  REST: POST /api/v2/dags/{quote(ti.dag_id, safe='')}/clearTaskInstances {json.dumps(body)}",
    ]
    if date is not None and sum(task_id in other for other in context["dag"].task_ids) == 1:
        which = ["--task-regex", task_id, "--downstream"]
        dates = ["--start-date", date.isoformat(), "--end-date", date.isoformat()]
        command = ["airflow", "tasks", "clear", ti.dag_id, *which, *dates, "--yes"]
        lines.append(f"  command: {shlex.join(command)}")
    return "\n".join(lines)


def ended_before(task_ids: Sequence[str], context: Context) -> list[str]:
    """Return which of these tasks have ended, so that they do not run after this one.

    They come after it: somebody has cleared this task, and not them.
    """
    ti: Any = context["ti"]
    found = ti.get_task_states(dag_id=ti.dag_id, task_ids=list(task_ids), run_ids=[ti.run_id])
    states: dict[str, str | None] = found.get(ti.run_id, {})
    return [
        task_id
        for task_id in task_ids
        if any(state in ENDED for state in instances(states, task_id).values())
    ]


def instances(states: Mapping[str, str | None], task_id: str) -> dict[str, str | None]:
    """Return the states of a task's instances, by name; a mapped one has its index behind its task's id."""
    pattern = re.compile(rf"{re.escape(task_id)}(_\d+)?")
    return {name: state for name, state in states.items() if pattern.fullmatch(name)}
