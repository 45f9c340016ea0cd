# SPDX-License-Identifier: Apache-2.0
"""Which of the three tasks gets which BaseOperator argument."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# When the job may start, and what stands before it.
_SPLIT = (
    "depends_on_past",
    "ignore_first_depends_on_past",
    "inlets",
    "on_execute_callback",
    "trigger_rule",
    "wait_for_downstream",
    "wait_for_past_depends_before_skipping",
)
# Where and how often the work is done.
_RUN = (
    "execution_timeout",
    "executor",
    "executor_config",
    "max_active_tis_per_dag",
    "max_active_tis_per_dagrun",
    "max_retry_delay",
    "on_retry_callback",
    "pool",
    "pool_slots",
    "priority_weight",
    "queue",
    "resources",
    "retries",
    "retry_delay",
    "retry_exponential_backoff",
    "retry_policy",
    "weight_rule",
)
# What the job as a whole came to.
_REDUCE = (
    "doc",
    "doc_json",
    "doc_md",
    "doc_rst",
    "doc_yaml",
    "on_failure_callback",
    "on_skipped_callback",
    "on_success_callback",
    "outlets",
)
_ALL = ("email", "email_on_failure", "email_on_retry", "end_date", "owner", "run_as_user", "start_date")
_GROUP = ("dag", "default_args", "task_display_name", "task_group")

TASKS = ("split", "run", "reduce")

ROUTES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_SPLIT, ("split",)),
    **dict.fromkeys(_RUN, ("run",)),
    **dict.fromkeys(_REDUCE, ("reduce",)),
    **dict.fromkeys(_ALL, TASKS),
    **dict.fromkeys(_GROUP, ("group",)),
}

_OWN = (
    "task_id",
    "name",
    "parallel_run_config",
    "inputs",
    "output",
    "side_inputs",
    "arguments",
    "allow_reuse",
)


def route(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Deal BaseOperator arguments out to the tasks (and to the group itself).

    :return: for each of split, run, reduce and group the arguments that it gets
    :raises TypeError: for an argument that has no place here, with the nearest name that has one
    """
    routed: dict[str, dict[str, Any]] = {place: {} for place in (*TASKS, "group")}
    for name, value in arguments.items():
        if name not in ROUTES:
            near = difflib.get_close_matches(name, [*ROUTES, *_OWN], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see its docstring for what it takes."
            raise TypeError(f"ParallelRunOperator does not take the argument {name!r}; {hint}")
        for place in ROUTES[name]:
            routed[place][name] = value
    return routed
