# SPDX-License-Identifier: Apache-2.0
"""What is done beside the work, every so often, and must never be in its way."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

# A node that was asked to stop must be gone within 4 s, also when a call does not return.
CLOSE_LIMIT_S = 1.0


class Periodic:
    """Calls something every so often and at the end, from a thread of its own.

    :param what: what is reported; the thread's name, and part of the message when it cannot be reported
    :param call: what to call; when it fails, that is logged once, and it is called again all the same
    :param interval_s: seconds between two calls
    :param at_once: whether the first call is at the start
    """

    def __init__(self, what: str, call: Callable[[], None], interval_s: float, at_once: bool = False) -> None:
        self._what = what
        self._call = call
        self._interval_s = interval_s
        self._at_once = at_once
        self._over = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._loop, name=what, daemon=True)
        self._thread.start()

    def close(self, limit_s: float = CLOSE_LIMIT_S) -> None:
        """Call a last time, and end the thread; one whose call does not return in time is left behind."""
        self._over.set()
        self._thread.join(limit_s)

    def _loop(self) -> None:
        if self._at_once:
            self._try()
        while not self._over.wait(self._interval_s):
            self._try()
        self._try()

    def _try(self) -> None:
        try:
            self._call()
        except Exception as error:  # noqa: BLE001 - whatever is beside the work must not stop it
            if not self._failed:
                logger.warning("%s cannot be reported: %s", self._what, error)
            self._failed = True
