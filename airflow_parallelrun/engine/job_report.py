# SPDX-License-Identifier: Apache-2.0
"""The job report: every journalled result as a line of a CSV file, with the columns of the original.

It is a log, and no result depends on it: where it cannot be written, that is a warning.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_parallelrun.engine import ownership
from airflow_parallelrun.engine.journal import Line, Streak
from airflow_parallelrun.engine.object_writer import upload_file
from airflow_parallelrun.engine.scratch import ScratchFolder
from airflow_parallelrun.engine.store import open_temporary
from airflow_parallelrun.exceptions import StorageError
from airflow_parallelrun.filesystems import is_remote
from airflow_parallelrun.worker import protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from airflow_parallelrun.engine.journal import Record
    from airflow_parallelrun.engine.names import Attempt
    from airflow_parallelrun.engine.plan import Plan

logger = logging.getLogger(__name__)

NAME = "processed_mini-batches.csv"

_HEADER = (
    "Mini-batch Id,Picked Count,Process,Process Start Time,Total,Succeeded,Failed,Elapsed Seconds,"
    "Process Seconds,Run Method Seconds,Status,Error Category,Error Message,Mini-batch Detail\n"
)
_LINE = "%d,%d,%s,%s,%d,%d,%d,%.6f,%.6f,%.6f,%s,%s,%s,%s\n"
_CLEAN = "RUN_DONE", "", ""

# The original's words, by the type of the error; every other failure is RUN_EXCEPTION.
_STATUSES = {
    "RunInvocationTimeout": "RUN_TIMEOUT",
    "OverheadTimeout": "LOAD_TIMEOUT",
    "InputChangedError": "LOAD_EXCEPTION",
    "LoadError": "LOAD_EXCEPTION",
    "RowError": "LOAD_EXCEPTION",
}

_SECOND = 1_000_000  # µs

# Written at once: a million lines are common.
_LINES = 1_000


class JobReport:
    """Writes the report of a run under a temporary name, which is gone at the end of the block."""

    def __init__(self, plan: Plan) -> None:
        self._path = os.path.join(plan.logs, "sys", "job_report", NAME)
        # On the file system of the logs, and where reduce finds what one that was killed has left.
        self._folder = ownership.folder(plan.output) if plan.output else plan.run_dir
        self._is_remote = is_remote(self._path)
        self._scratch: ScratchFolder | None = None
        self._file: BinaryIO | None = None
        self._lines = [_HEADER]
        # The second of the last time that was asked for.
        self._second_us, self._second = 0, ""
        self._details: dict[Attempt, str] = {}

    def __enter__(self) -> Self:
        """Begin to write."""
        with self._or_warn():
            if self._is_remote:
                self._scratch = ScratchFolder()
                self._folder = self._scratch.path
            os.makedirs(self._folder, exist_ok=True)
            self._file = open_temporary(self._folder)
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove what was not published."""
        self._drop()

    def add(self, record: Record) -> None:
        """Take a result, whether it counts or not."""
        entry = record.entry
        if isinstance(entry, Streak):
            self._lines += self._of_streak(entry, self._detail(record))
        else:
            self._lines.append(self._of_line(entry, self._detail(record)))
        if len(self._lines) >= _LINES:
            self._write()

    def _of_line(self, line: Line, detail: str) -> str:
        status, category, message = _CLEAN if line.error is None else _outcome(line.status, line.error)
        values = (
            line.ordinal,
            line.tries,
            line.process,
            self._time(int((line.finished - line.seconds) * 1e6)),
            line.items_in,
            line.items_ok,
            line.items_failed,
            line.seconds,
            line.cpu_seconds,
            0.0 if status.startswith("LOAD") else line.seconds,
            status,
            category,
            message,
            detail,
        )
        return _LINE % values

    def _of_streak(self, streak: Streak, detail: str) -> Iterator[str]:
        """Yield a line for each mini-batch, as it would be for its single line."""
        # Many a job has a million quick ones. The text of an integer costs half as much as a float's.
        began_us = int(streak.began * 1e6)
        rest = f"RUN_DONE,,,{detail}\n"
        columns = streak.items, streak.run_us, streak.cpu_us, streak.ended_us
        for ordinal, items, run_us, cpu_us, ended_us in zip(streak.ordinals, *columns, strict=True):
            if streak.without and ordinal in streak.without:
                continue
            begun = self._time(began_us + ended_us - run_us)
            run_s, cpu_s = _seconds(run_us), _seconds(cpu_us)
            yield f"{ordinal},1,{streak.process},{begun},{items},{items},0,{run_s},{cpu_s},{run_s},{rest}"

    def _time(self, us: int) -> str:
        """Return a time in ISO 8601.

        :param us: microseconds since the epoch
        """
        if not 0 <= us - self._second_us < _SECOND:
            second = us // _SECOND
            self._second_us = second * _SECOND
            self._second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second}.{us - self._second_us:06}Z"

    def publish(self) -> None:
        """Give the report its name, in the place of an earlier one."""
        self._write()
        if self._file is None:
            return
        with self._or_warn():
            self._file.flush()
            if self._is_remote:
                upload_file(self._file.name, self._path)
                return
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            os.replace(self._file.name, self._path)

    def _detail(self, record: Record) -> str:
        parts = record.entry.parts if isinstance(record.entry, Line) else ()
        known = self._details.get(record.attempt)
        if known is not None and not parts:
            return known
        detail: dict[str, Any] = {"node": str(record.attempt), "round": record.round}
        if not parts:
            return self._details.setdefault(record.attempt, _quoted(json.dumps(detail)))
        detail["parts"] = Counter(part.status for part in parts)
        return _quoted(json.dumps(detail))

    def _write(self) -> None:
        if self._file is not None:
            with self._or_warn():
                self._file.write("".join(self._lines).encode("utf-8", "backslashreplace"))
        self._lines.clear()

    @contextlib.contextmanager
    def _or_warn(self) -> Iterator[None]:
        try:
            yield
        except (OSError, StorageError) as error:
            logger.warning("%s is not written: %s", self._path, error)
            self._drop()

    def _drop(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is not written yet cannot be, either
                self._file.close()
            with contextlib.suppress(OSError):  # it has got its name; else the next reduce removes it
                os.unlink(self._file.name)
            self._file = None
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None


def _outcome(status: str, error: dict[str, Any]) -> tuple[str, str, str]:
    """Return status, error category and error message."""
    kind = str(error.get("type"))
    word = _STATUSES.get(kind, "RUN_EXCEPTION") if status == protocol.FAILED else "RUN_DONE"
    return word, _quoted(kind), _quoted(str(error.get("message")))


def _seconds(us: int) -> str:
    return f"0.{us:06}" if us < _SECOND else f"{us // _SECOND}.{us % _SECOND:06}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
