# SPDX-License-Identifier: Apache-2.0
"""What an error of a store's driver means: every driver raises errors of its own."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

from airflow_parallelrun.exceptions import ParallelRunError
from airflow_parallelrun.filesystems import hide

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A store that answers 503, or is not there for a moment, is asked again after 0.5, 1, 2, 4, 8 and 16 seconds.
TRIES = 7
BACKOFF_S = 0.5

# Refusals that may be over in a moment: time-out, conflict with somebody else's request, too early, too many.
_PASSING = frozenset({408, 409, 425, 429})
_FOR_GOOD = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    ParallelRunError,
    PermissionError,
    TypeError,
    ValueError,
)


def told(error: BaseException) -> str:
    """Return an error in one line, without the secrets of connections."""
    return hide(f"{type(error).__name__}: {error}".partition("\n")[0])


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status in a driver's error, or in its cause; None without one."""
    found: BaseException | None = error
    while found is not None:
        response = getattr(found, "response", None)
        if isinstance(response, dict):  # botocore
            found_status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found_status = getattr(found, "status_code", None) or getattr(found, "status", None)
        if isinstance(found_status, int):
            return found_status
        found = found.__cause__
    return None


def is_final(error: Exception) -> bool:
    """Tell whether a store, or its driver, would say the same again."""
    # Before the status of its cause: Azure's 409 may be over in a moment, and may say that a blob exists.
    if isinstance(error, _FOR_GOOD):
        return True
    status = status_of(error)
    if status is not None:
        return 400 <= status < 500 and status not in _PASSING
    # Every driver has its own error for it, and some find it out without asking.
    return "Credential" in type(error).__name__


def insist(question: Callable[[], T], place: str, pause: Callable[[float], None] = time.sleep) -> T:
    """Ask a store something, and ask again while it does not answer; the last error is the driver's own.

    :param place: what is asked for, in the log
    :param pause: waits so many seconds before the store is asked again
    """
    for attempt in range(TRIES - 1):
        try:
            return question()
        except Exception as error:
            if is_final(error):
                raise
            logger.warning("%s: %s; asking again", place, told(error))
        pause(BACKOFF_S * 2**attempt)
    return question()
