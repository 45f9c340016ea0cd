# SPDX-License-Identifier: Apache-2.0
"""Threads that wait for stores and disks in place of the dispatch thread."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_Task = tuple["Callable[..., None]", tuple[Any, ...]]


class Stopped(BaseException):
    """Nobody wants it any more: nothing is wrong, and who takes errors of a store does not take this."""


class Threads:
    """Threads that do what they are given, in order; they start when there is something to do.

    Nobody waits for their end, neither :meth:`close` nor the interpreter: what hangs in a driver must not
    hold up a node that has been told to stop.

    :param name: of the threads
    :param count: how many
    :param failed: called, in one of them, with an error that nobody else has taken
    """

    def __init__(self, name: str, count: int, failed: Callable[[BaseException], None]) -> None:
        self._name = name
        self._count = count
        self._failed = failed
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._started = 0

    def do(self, task: Callable[..., None], *arguments: Any) -> None:
        """Have one of the threads call something."""
        if self._started < self._count:
            self._started += 1
            threading.Thread(target=self._loop, name=self._name, daemon=True).start()
        self._tasks.put((task, arguments))

    def pause(self, seconds: float) -> None:
        """Wait, in one of the threads.

        :raises Stopped: when they are to end
        """
        if self._stopping.wait(seconds):
            raise Stopped

    def close(self) -> None:
        """Have the threads end when they are done with what they are doing."""
        self._stopping.set()
        for _ in range(self._started):
            self._tasks.put(None)

    def _loop(self) -> None:
        while (task := self._tasks.get()) is not None and not self._stopping.is_set():
            try:
                task[0](*task[1])
            except Stopped:
                return
            except BaseException as error:  # noqa: BLE001 - a thread's error must reach the dispatch thread
                self._failed(error)
