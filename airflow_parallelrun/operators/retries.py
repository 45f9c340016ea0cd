# SPDX-License-Identifier: Apache-2.0
"""When Airflow tries a node again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryDecision, RetryPolicy

from airflow_parallelrun.exceptions import ParallelRunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import DAG, Context, TaskGroup


class NodeRetryPolicy(RetryPolicy):
    """Retry a node that was interrupted or lost its storage; fail it where a retry would change nothing.

    How often and how long after is the task's ``retries`` and ``retry_delay``. Airflow does not ask a policy
    about a task whose process was killed: it is retried.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Decide by the kind of error; what is no error of ours (the machine, Airflow) is worth a retry."""
        kind = type(exception).__name__
        if isinstance(exception, ParallelRunError) and not exception.retryable:
            return RetryDecision.fail(f"{kind}: a retry cannot change it")
        return RetryDecision.retry(reason=f"{kind}: what the node has committed is kept")

    def serialize(self) -> dict[str, Any]:
        """Return nothing: the policy has no settings."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> NodeRetryPolicy:
        """Return the policy."""
        return cls()


# The third retry is the one that finds a mini-batch which took its machine down three times.
_DEFAULTS: Mapping[str, Any] = {"retries": 3, "retry_delay": timedelta(seconds=10)}


def retry_arguments(dag: DAG, group: TaskGroup, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the retry arguments of the run task: the user's own, and ours where there is none.

    :param dag: its ``default_args`` come last but for ours
    :param group: the operator as a task group; its ``default_args`` hold those of the groups around it
    :param given: the arguments of the operator itself
    """
    own = {**dag.default_args, **group.default_args, **given}
    chosen = {name: value for name, value in _DEFAULTS.items() if name not in own}
    if own.get("retry_policy") is None:
        chosen["retry_policy"] = NodeRetryPolicy()
    return chosen
