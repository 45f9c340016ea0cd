# SPDX-License-Identifier: Apache-2.0
"""What an error of a store's driver means: every driver raises errors of its own."""

from __future__ import annotations

from airflow_parallelrun.filesystems import hide

# Refusals that may be over in a moment: time-out, conflict with somebody else's request, too early, too many.
_PASSING = frozenset({408, 409, 425, 429})
_FOR_GOOD = (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)


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
    status = status_of(error)
    if status is not None:
        return 400 <= status < 500 and status not in _PASSING
    # Every driver has its own error for it, and some find it out without asking.
    lacks_credentials = "Credential" in type(error).__name__
    return lacks_credentials or isinstance(error, (*_FOR_GOOD, ValueError, TypeError))
