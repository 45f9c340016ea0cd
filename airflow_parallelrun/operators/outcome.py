# SPDX-License-Identifier: Apache-2.0
"""How the engine's errors become Airflow's outcomes."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowFailException

from airflow_parallelrun.exceptions import ParallelRunError

if TYPE_CHECKING:
    from collections.abc import Iterator

# rendered_map_index is a VARCHAR(250) column.
MAX_TITLE_CHARS = 250


@contextmanager
def airflow_outcome() -> Iterator[None]:
    """Fail the task at once on an error that a retry cannot change; let all others pass, to be retried.

    :raises AirflowFailException: with the engine's message, which carries the user's own exception
    """
    try:
        yield
    except ParallelRunError as error:
        if error.retryable:
            raise
        raise AirflowFailException(str(error)) from error


@contextmanager
def engine_logging(level: str) -> Iterator[None]:
    """Let what the engine logs at ``level`` and above into the task log, whatever Airflow's own level is."""
    wanted = logging.getLevelNamesMapping()[level]
    logger = logging.getLogger("airflow_parallelrun")
    logger_level = logger.level
    # Airflow puts its level on the handlers as well; the loggers of others keep theirs.
    handlers = [(handler, handler.level) for handler in logging.getLogger().handlers]
    logger.setLevel(wanted)
    for handler, handler_level in handlers:
        handler.setLevel(min(handler_level, wanted))
    try:
        yield
    finally:
        logger.setLevel(logger_level)
        for handler, handler_level in handlers:
            handler.setLevel(handler_level)
