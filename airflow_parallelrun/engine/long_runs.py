# SPDX-License-Identifier: Apache-2.0
"""What runs in a node whose run directory is in an object store, for the case that it kills the machine.

On a file system the pages of the processes outlive them. Here copies are uploaded: as a rule only of what has
been running for long, since each takes a request.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from airflow_parallelrun.engine import names
from airflow_parallelrun.worker import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_parallelrun.engine.names import Attempt
    from airflow_parallelrun.engine.pool import Process
    from airflow_parallelrun.engine.portions import Portion
    from airflow_parallelrun.engine.store import Store

# What has been running for so long is shown; and a look comes as often.
LONG_S = 5.0
# What has killed the machine once comes again soon, however short it is: for a while nearly all is shown.
QUICK_S, QUICK_FOR_S = 0.1, 60.0
# The dispatch thread waits for the requests: before the next ones it has so many times as long for itself.
_PAUSE = 4
_AT_ONCE = 8


class _Shown(NamedTuple):
    feed: int = -1
    ordinal: int = -1
    by_all: bool = False

    def content(self) -> bytes:
        """Return what it looks like: a page, and in its last byte what :func:`is_shown_by_all` tells."""
        phase = page.IDLE if self.feed < 0 else page.RUN
        return page.image(phase, self.ordinal, self.feed)[:-1] + bytes([self.by_all])


_NOTHING = _Shown()


class LongRuns:
    """Shows what runs in a node.

    :param store: the run directory
    :param attempt: whose processes they are
    :param after_loss: whether an earlier attempt of the node was lost in this round
    """

    def __init__(self, store: Store, attempt: Attempt, after_loss: bool) -> None:
        self._store = store
        self._attempt = attempt
        self._quick_until = float("inf") if after_loss else 0.0
        self._next = 0.0
        self._shown: dict[int, _Shown] = {}

    def look(self, processes: Sequence[Process]) -> None:
        """Show what has been running for long, and no longer what is over; to be called often."""
        began = time.monotonic()
        if began < self._next:
            return
        in_flight = [process.in_flight for process in processes if process.in_flight]
        if self._quick_until == float("inf") and in_flight and not in_flight[0].alone:
            self._quick_until = began + QUICK_FOR_S
        quick = began < self._quick_until
        now_ns = time.monotonic_ns()
        alive = {process.number: process for process in processes}
        changes: dict[int, _Shown] = {}
        for number in {*self._shown, *alive}:
            before = self._shown.get(number, _NOTHING)
            process = alive.get(number)
            shown = _NOTHING if process is None else _seen(process, before, now_ns, quick)
            if shown != before:
                changes[number] = shown
        self._show(changes)
        now = time.monotonic()
        # What is over is shown no longer than it takes to notice.
        soon = quick or not all(shown.by_all for shown in self._shown.values() if shown != _NOTHING)
        self._next = now + (_PAUSE * (now - began) if soon else LONG_S)

    def announce(self, process: Process, portion: Portion) -> None:
        """Show what is about to run alone: what runs no more must not be taken for it."""
        changes = {number: _NOTHING for number, shown in self._shown.items() if shown != _NOTHING}
        changes[process.number] = _Shown(process.in_flight.next_feed, portion.ordinal)
        self._show(changes)

    def _show(self, changes: dict[int, _Shown]) -> None:
        def put(number: int) -> None:
            self._store.put(f"{names.PAGES}/{self._attempt}-{number}", changes[number].content())
            self._shown[number] = changes[number]

        if len(changes) == 1:
            put(*changes)
        elif changes:
            with ThreadPoolExecutor(min(_AT_ONCE, len(changes)), "pages") as threads:
                list(threads.map(put, changes))


def is_shown_by_all(content: bytes) -> bool:
    """Tell of a copy whether its mini-batch had been running for so long that any attempt shows it."""
    return content[-1] == 1


def _seen(process: Process, before: _Shown, now_ns: int, quick: bool) -> _Shown:
    state = process.page.read()
    if state is None:  # looked at again soon
        return before
    if state.feed < 0:  # one that was announced may not have begun
        return before if before.feed in process.in_flight else _NOTHING
    seconds = (now_ns - state.start_ns) / 1e9  # in its phase
    by_all = seconds > 2 * LONG_S + 1
    if state.feed == before.feed:
        return before._replace(by_all=before.by_all or by_all)
    return _Shown(state.feed, state.ordinal, by_all) if seconds > (QUICK_S if quick else LONG_S) else _NOTHING
