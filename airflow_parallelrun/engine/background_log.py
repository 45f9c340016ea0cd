# SPDX-License-Identifier: Apache-2.0
"""The node's own log, written by threads of its own: to whoever shows it, and to a file.

Airflow reads a task's log from a socket, and little of it while its API server is away. A script that prints
much then fills the socket, and whoever logs has to wait: it must not be the thread that feeds the processes.
Nor must a slow disk be waited for; and a log that nobody reads must not keep lines from the file.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import contextmanager, suppress
from contextvars import copy_context
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PACKAGE, _ENGINE = "airflow_parallelrun", "airflow_parallelrun.engine"

logger = logging.getLogger(__name__)

# A node that was asked to stop must be gone within 4 s, also when nobody reads its log.
CLOSE_LIMIT_S = 1.0


class NodeLog:
    """The file that keeps a node's log: INFO and above, whatever the script's logging level is.

    What is logged before the file has a name waits for it.
    """

    def __init__(self) -> None:
        self._path: str | None = None
        self._file: TextIO | None = None
        self._waiting: list[str] = []
        self._refused = False
        self._formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s")
        self._formatter.datefmt = "%Y-%m-%dT%H:%M:%S"
        self._formatter.converter = time.gmtime

    def name(self, path: str) -> None:
        """Say which file it is; the log's own thread makes it."""
        self._path = path

    def write(self, record: logging.LogRecord) -> None:
        """Write a record. A disk that refuses is told of once, and stops nobody."""
        self._waiting.append(self._formatter.format(record) + "\n")
        self._write()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._write()
        if self._file is not None:
            with suppress(OSError):  # told of before
                self._file.close()

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            if self._file is None:
                os.makedirs(os.path.dirname(self._path), exist_ok=True)
                self._file = open(self._path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            self._file.writelines(self._waiting)
            self._file.flush()
        except OSError as error:
            if not self._refused:
                logger.warning("%s is not written: %s", self._path, error)
            self._refused = True
        self._waiting.clear()


class _Sink:
    """Takes records in a thread of its own.

    :param name: of the thread
    :param level: of the records
    :param take: called with each record
    :param end: called behind the last one
    """

    def __init__(
        self,
        name: str,
        level: int,
        take: Callable[[logging.LogRecord], object],
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._records: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._take = take
        self._end = end
        self.handler = QueueHandler(self._records)
        self.handler.setLevel(level)
        # Airflow keeps in context variables which task a line is from.
        self._thread = threading.Thread(target=copy_context().run, args=(self._loop,), name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let the thread end behind what it has got so far."""
        self._records.put(None)

    def wait(self, deadline: float) -> None:
        """Wait for the thread's end.

        :param deadline: on the monotonic clock; a thread that hangs is left behind then
        """
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _loop(self) -> None:
        while (record := self._records.get()) is not None:
            self._take(record)
        self._end()


@contextmanager
def background_log() -> Iterator[NodeLog]:
    """Within it nobody waits who logs in the engine. Gives the file, which needs a name.

    What nobody has read a second after the end is left to the thread; it is lost when the process ends.
    """
    package, engine = logging.getLogger(_PACKAGE), logging.getLogger(_ENGINE)
    shown_level = package.getEffectiveLevel()
    file = NodeLog()
    sinks = (
        _Sink("log", shown_level, package.handle),
        _Sink("log file", logging.INFO, file.write, file.close),
    )
    for sink in sinks:
        engine.addHandler(sink.handler)
    engine.propagate = False
    engine.setLevel(min(shown_level, logging.INFO))
    try:
        yield file
    finally:
        engine.setLevel(logging.NOTSET)
        engine.propagate = True
        for sink in sinks:
            engine.removeHandler(sink.handler)
            sink.close()
        deadline = time.monotonic() + CLOSE_LIMIT_S
        for sink in sinks:
            sink.wait(deadline)
