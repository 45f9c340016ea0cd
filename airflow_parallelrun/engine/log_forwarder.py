# SPDX-License-Identifier: Apache-2.0
"""Shows the worker processes' logs in the node's own log, at the entry script's logging level.

The files have everything; what is shown is bounded, so that a script that floods its output cannot flood
the task's log.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_parallelrun.engine.deaths import OWN_FOLDER

if TYPE_CHECKING:
    from airflow_parallelrun.engine.pool import Process

logger = logging.getLogger("airflow_parallelrun.entry_script")

INTERVAL_S = 1.0
BYTES_PER_INTERVAL = 16 * 1024

# The beginning of a line as the worker's logging writes it.
_LOGGED = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")

# Of a stack that a worker has written, what is not the script's concern.
_OWN_FRAME = f'  File "{OWN_FOLDER}'


@dataclass
class _Tail:
    path: str
    label: str
    level: int
    offset: int = 0
    ended: bool = False


class LogForwarder:
    """Follows the files of processes, in a thread of its own.

    :param level: lines below it are not shown
    """

    def __init__(self, level: str) -> None:
        self._level = logging.getLevelNamesMapping()[level]
        self._tails: list[_Tail] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="log forwarder", daemon=True)
        self._thread.start()

    def follow(self, process: Process) -> None:
        """Follow a process's stdout, stderr and EntryScript log."""
        files = process.files
        self._tails += [
            _Tail(files.stdout, process.name, logging.INFO),
            _Tail(files.stderr, f"{process.name} stderr", logging.WARNING),
            _Tail(files.entry_script, process.name, logging.INFO),
        ]

    def leave(self, process: Process) -> None:
        """Show the rest of what a process wrote that is gone, and follow it no more."""
        for tail in self._tails:
            tail.ended |= tail.path in vars(process.files).values()

    def close(self, limit_s: float | None = None) -> None:
        """Show what is left, and end the thread.

        :param limit_s: how long to wait at most for who reads the log; default as long as it takes
        """
        self._over.set()
        self._thread.join(limit_s)

    def _loop(self) -> None:
        while not self._over.wait(INTERVAL_S):
            self._forward(last=False)
        self._forward(last=True)

    def _forward(self, last: bool) -> None:
        for tail in list(self._tails):
            if ended := tail.ended:
                self._tails.remove(tail)
            try:
                lines = _read(tail, last or ended)
            except FileNotFoundError:  # the EntryScript log is made when it is first used
                continue
            except OSError as error:
                logger.warning("[%s] %s cannot be read: %s", tail.label, tail.path, error)
                if not ended:
                    self._tails.remove(tail)
                continue
            for line in lines:
                if line.startswith(_OWN_FRAME):
                    continue
                match = _LOGGED.match(line)
                level = logging.getLevelNamesMapping()[match[1]] if match else tail.level
                if level >= self._level:
                    logger.log(level, "[%s] %s", tail.label, line)


def _read(tail: _Tail, last: bool) -> list[str]:
    """Return the whole lines that are new; of too many the last ones, and how much was left out."""
    with open(tail.path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        tail.offset = min(tail.offset, size)  # a script may cut its own log
        skipped = max(0, size - tail.offset - BYTES_PER_INTERVAL)
        file.seek(tail.offset + skipped)
        data = file.read(size - tail.offset - skipped)
    end = len(data) if last else data.rfind(b"\n") + 1
    if not end and len(data) < BYTES_PER_INTERVAL:
        return []
    end = end or len(data)
    tail.offset += skipped + end
    lines = data[:end].decode("utf-8", "replace").splitlines()
    if skipped:
        lines[0] = f"… {skipped} bytes are not shown, they are in {tail.path}"
    return lines
