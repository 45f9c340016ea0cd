# SPDX-License-Identifier: Apache-2.0
"""Which failures of a node Airflow tries again, and whose settings count."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, ExceptionRetryPolicy, RetryAction, TaskGroup
from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_parallelrun import ComputeTarget, Dataset, Environment, ParallelRunConfig, ParallelRunOperator
from airflow_parallelrun.exceptions import (
    EntryScriptInitError,
    InterruptedRunError,
    InvalidValueError,
    StorageError,
)
from airflow_parallelrun.operators.retries import NodeRetryPolicy


def run_task(dag: DAG, **arguments: Any) -> Any:
    ParallelRunOperator(
        task_id="predict",
        parallel_run_config=ParallelRunConfig(
            environment=Environment(),
            entry_script="score.py",
            error_threshold=0,
            output_action="append_row",
            compute_target=ComputeTarget(),
            node_count=2,
        ),
        inputs=[Dataset.File.from_files("/no/such/folder").as_mount()],
        output="/results/{{ run_id }}",
        **arguments,
    )
    (task,) = [task for task in dag.tasks if task.task_id.endswith("predict.run")]
    return task


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (InterruptedRunError(0, "was asked to stop and has stopped", 3, 8), RetryAction.RETRY),
        (StorageError("/mnt/run", "Input/output error"), RetryAction.RETRY),
        (AirflowTaskTimeout("Timeout"), RetryAction.RETRY),
        (MemoryError(), RetryAction.RETRY),
        (InvalidValueError("node_count", 0, "at least 1"), RetryAction.FAIL),
        (EntryScriptInitError(0, 3, "ValueError: no weights", "", "/log"), RetryAction.FAIL),
    ],
)
def test_a_node_is_tried_again_when_that_can_help(error: Exception, action: RetryAction) -> None:
    decision = NodeRetryPolicy().evaluate(error, try_number=1, max_tries=3)
    assert (decision.action, decision.retry_delay) == (action, None)
    assert type(error).__name__ in str(decision.reason)


def test_without_a_word_from_the_user_a_lost_node_is_tried_three_times_more() -> None:
    with DAG("plain", schedule=None) as dag:
        task = run_task(dag)
    assert (task.retries, task.retry_delay) == (3, timedelta(seconds=10))
    assert isinstance(task.retry_policy, NodeRetryPolicy)
    assert [dag.get_task(f"predict.{name}").retries for name in ("split", "reduce")] == [0, 0]


@pytest.mark.parametrize("place", ["operator", "step", "group", "dag"])
def test_what_the_user_says_counts_wherever_it_is_said(place: str) -> None:
    policy = ExceptionRetryPolicy(rules=[])
    own = {"retries": 0, "retry_delay": timedelta(minutes=5), "retry_policy": policy}
    of = {name: own if name == place else {} for name in ("operator", "step", "group", "dag")}
    with (
        DAG("settings", schedule=None, default_args=of["dag"]) as dag,
        TaskGroup("around", default_args=of["group"]),
    ):
        task = run_task(dag, default_args=of["step"], **of["operator"])
    assert (task.retries, task.retry_delay) == (0, timedelta(minutes=5))
    assert type(task.retry_policy) is ExceptionRetryPolicy  # Airflow copies default_args


def test_the_users_number_keeps_our_policy() -> None:
    with DAG("settings", schedule=None, default_args={"retry_policy": None}) as dag:
        task = run_task(dag, retries=7)
    assert task.retries == 7
    assert isinstance(task.retry_policy, NodeRetryPolicy)
