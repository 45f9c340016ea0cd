# SPDX-License-Identifier: Apache-2.0
"""How far a node is, for people to look at; nothing depends on it."""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

# A node that was asked to stop must be gone within 4 s, also when nobody listens to its progress.
CLOSE_LIMIT_S = 1.0


@dataclass(frozen=True)
class Progress:
    """A node's progress in this round.

    :param node: the node's index
    :param attempt: which start of the node this is, from 1
    :param state: starting, running, stopping or the outcome
    :param mini_batches_total: of the whole job, in this round
    :param mini_batches_done: finished by this node
    :param mini_batches_failed: of these, failed or short
    :param items_done: items of finished mini-batches
    :param items_failed: of these, failed
    :param seconds: since this attempt started
    :param processes: alive now
    :param first_init_s: seconds until the first process was ready; None before that
    :param mini_batches_before: of those done, how many earlier attempts of this node did
    """

    node: int
    attempt: int
    state: str
    mini_batches_total: int
    mini_batches_done: int
    mini_batches_failed: int
    items_done: int
    items_failed: int
    seconds: float
    processes: int
    first_init_s: float | None
    mini_batches_before: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values; a few hundred bytes."""
        return asdict(self)


class Reporter:
    """Calls back with the progress every so often, from a thread of its own.

    :param snapshot: returns the progress; called from the thread
    :param report: what to call; when it fails, that is logged once, and the node goes on
    :param interval_s: seconds between two calls
    """

    def __init__(
        self, snapshot: Callable[[], Progress], report: Callable[[Progress], None], interval_s: float
    ) -> None:
        self._snapshot = snapshot
        self._report = report
        self._interval_s = interval_s
        self._over = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._loop, name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Report a last time, and end the thread; one that cannot reach anybody is left behind."""
        self._over.set()
        self._thread.join(CLOSE_LIMIT_S)

    def _loop(self) -> None:
        while not self._over.wait(self._interval_s):
            self._call()
        self._call()

    def _call(self) -> None:
        try:
            self._report(self._snapshot())
        except Exception as error:  # noqa: BLE001 - whatever shows progress must not stop the work
            if not self._failed:
                logger.warning("progress cannot be reported: %s", error)
            self._failed = True
