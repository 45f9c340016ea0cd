# SPDX-License-Identifier: Apache-2.0
"""A run of the DAG that redrives an earlier one: it is asked for in the conf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NotRedrivableError
from airflow_parallelrun.hooks.filesystems import connected
from airflow_parallelrun.operators.clearing import ENDED, instances, sibling
from airflow_parallelrun.operators.links import PLAN_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_parallelrun.engine.redrive import Redrive
    from airflow_parallelrun.engine.split import RunRequest

REDRIVE_OF = "redrive_of"

_OVER = ENDED | {"removed"}
_REMEDY = "Finish that run first: its reduce task says what to clear. Or trigger the DAG without redrive_of."


def asked_for(conf: Mapping[str, Any], own_run_id: str) -> str | None:
    """Return the id of the run that this one is to redrive; None where it is a run like any other.

    :raises InvalidValueError: when it cannot be such an id
    """
    earlier = conf.get(REDRIVE_OF)
    if earlier is None:  # also what an empty field of the form sends, where the DAG has one for it
        return None
    if not isinstance(earlier, str) or not earlier.strip() or earlier == own_run_id:
        raise InvalidValueError(REDRIVE_OF, earlier, "the run id of an earlier run of this DAG, as text")
    return earlier


def redrive_earlier(earlier: str, request: RunRequest, split_id: str, ti: Any) -> Redrive:
    """Prepare a redrive of the same step in an earlier run of the DAG.

    :param earlier: its run id
    :param request: how the step is run now
    :param split_id: the task that made the plan there
    :raises ConfigurationError: when the run cannot be redriven
    """
    from airflow_parallelrun.engine import urls
    from airflow_parallelrun.engine.plan import read_plan
    from airflow_parallelrun.engine.redrive import RedriveRequest, redrive

    run_dir = _run_dir(earlier, split_id, ti)
    with connected([run_dir]):
        _refuse_beside_another(earlier, run_dir, split_id, ti)
        asked = RedriveRequest(
            by=request.owner,
            config=request.config,
            arguments=request.arguments,
            models_root=request.models_root,
            fresh_code=True,
            base_directory=request.base_directory,
        )
        try:
            with connected(urls.of_plan(read_plan(run_dir))):
                return redrive(run_dir, asked)
        except NotRedrivableError as error:
            raise _refused(earlier, error.problem, _REMEDY) from error


def _run_dir(earlier: str, split_id: str, ti: Any) -> str:
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[earlier]).get(earlier)
    if not states:
        remedy = "The page of the DAG lists its runs; a run id looks like manual__2026-01-02T03:04:05+00:00."
        raise _refused(earlier, f"the DAG {ti.dag_id!r} has no such run", remedy)
    if split_id not in states:
        remedy = "Redrive it with the version of the DAG that it was run with."
        raise _refused(earlier, f"it has no task {split_id!r}", remedy)
    if going_on := _going_on(states, split_id):
        raise _refused(earlier, f"it is still going on: {going_on}", _REMEDY)
    plan = ti.xcom_pull(task_ids=split_id, key=PLAN_KEY, run_id=earlier)
    if plan is None:
        raise _refused(earlier, f"{split_id} ended as {states[split_id]} and left no plan", _REMEDY)
    return str(plan["run_dir"])


def _refuse_beside_another(earlier: str, run_dir: str, split_id: str, ti: Any) -> None:
    """Refuse when another run is about to redrive it, whose nodes wait for a slot."""
    from airflow_parallelrun.engine import names
    from airflow_parallelrun.engine.amendment import in_force
    from airflow_parallelrun.engine.object_store import store_at
    from airflow_parallelrun.engine.rounds import sealed_rounds

    store = store_at(run_dir)
    if not store.exists(names.PLAN):
        raise _refused(
            earlier, f"its run directory {run_dir!r} is gone", "Trigger the DAG without redrive_of."
        )
    last = in_force(store, sealed_rounds(store))
    if last is None:
        return
    run_id = last.by.removeprefix(f"{ti.dag_id}/").rpartition("/")[0]
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[run_id]).get(run_id, {})
    if run_id != ti.run_id and (going_on := _going_on(states, split_id)):
        problem = f"run {run_id!r} is redriving it: {going_on}"
        raise _refused(earlier, problem, "Wait until that one has ended, or fail it.")


def _going_on(states: Mapping[str, str | None], split_id: str) -> str:
    """Return which task of the step has not ended; empty when all have."""
    for task_id in (split_id, sibling(split_id, "run"), sibling(split_id, "reduce")):
        for name, state in instances(states, task_id).items():
            if state not in _OVER:
                return f"{name} is {state or 'not started'}"
    return ""


def _refused(earlier: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"the run {earlier!r} ({REDRIVE_OF}) cannot be redriven: {problem}. {remedy}")
