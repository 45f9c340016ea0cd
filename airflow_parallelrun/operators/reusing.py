# SPDX-License-Identifier: Apache-2.0
"""A run of the DAG that takes over what an earlier one has come to; its conf can say that it must not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from airflow_parallelrun.exceptions import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_parallelrun.engine.report import JobResult

FORCE = "force"


def is_forced(conf: Mapping[str, Any]) -> bool:
    """Tell whether everything is to be done again, whatever has been done before.

    :raises InvalidValueError: when that is neither true nor false
    """
    value = conf.get(FORCE)
    if value is None:  # also what an empty field of the form sends, where the DAG has one for it
        return False
    if not isinstance(value, bool):
        raise InvalidValueError(FORCE, value, "true or false")
    return value


def reused_result(pointers: Mapping[str, Any], split_task_id: str) -> JobResult | None:
    """Read the result that split has found; None when there is one to be made.

    :param pointers: what split has pushed
    :raises AirflowFailException: when it is not there any more
    """
    from airflow_parallelrun.engine.reuse import read_result

    path = pointers.get("result")
    if path is None:
        return None
    try:
        return read_result(path)
    except FileNotFoundError as error:
        raise AirflowFailException(
            f"the result of run {pointers['reused_from']}, which {split_task_id} has found, is gone: {path}. "
            f"Clear {split_task_id} with its downstream tasks: it looks again."
        ) from error
