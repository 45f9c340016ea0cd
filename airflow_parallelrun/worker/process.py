# SPDX-License-Identifier: Apache-2.0
"""A worker process: takes mini-batches from the node, runs them one after the other, and says how it went.

Rows are in the segment before their mini-batch is reported. Reports are grouped: nothing waits longer than
``GROUP_NS`` for the next mini-batch to end, except behind one that is slow.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import socket
import sys
import time
import zlib
from collections import deque
from typing import Any

from . import logs, page, protocol
from .errors import ContractError, RowError, describe, problem
from .items import ItemReader
from .leaving import Leaving
from .loading import Loader
from .output import Origin, Segment, SegmentError
from .report import Report
from .runtime import EntryScript, Settings

logger = logging.getLogger(__name__)

# A report of its own for each would cost more than many a mini-batch takes.
GROUP_NS = 10_000_000

# Rows of a table that do not fit, in the journal, for each mini-batch; the error log has all of them.
ROWS_TOLD = 100

_PR_SET_PDEATHSIG = 1
_RECEIVE_BYTES = 1 << 18


class Gone(BaseException):
    """The node has closed the socket: it is over. No user code may catch it by accident."""


class PlanError(Exception):
    """The items cannot be read from the plan: the store's fault, not the script's."""


class Worker:
    """The loop of one worker process."""

    def __init__(self, channel: socket.socket, shared: page.Page, segment: Segment) -> None:
        self._channel = channel
        self._page = shared
        self._segment = segment
        self._messages = protocol.MessageReader()
        self._inbox: deque[list[Any]] = deque()
        self._queue: deque[list[int]] = deque()
        self._last_report_ns = time.monotonic_ns()
        self._stopping = False
        self._told_surplus = False

    def serve(self) -> None:
        """Run until the node says stop, or is gone."""
        self._say("hello", protocol.VERSION)
        self._settings = Settings(**self._receive("start")[1])
        logs.set_up(
            self._settings.logging_level,
            os.path.join(self._settings.log_dir, f"{self._settings.agent_name}.log.txt"),
        )
        if not self._load():
            return
        self._items = self._open_items()
        self._report = Report(self._segment, self._settings.segment, self._settings.agent_name)
        while True:
            if not self._queue:
                self._tell()
                if self._stopping:
                    break
                self._page.write(page.IDLE)
                self._take(self._next_message())
            while self._inbox:
                self._take(self._inbox.popleft())
            if self._queue:
                self._run_all(*self._queue.popleft())
        self._shutdown()
        self._say("bye")

    @property
    def source_directory(self) -> str:
        """The folder of the project."""
        return self._settings.source_directory

    def tell_fault(self, error: SegmentError | PlanError) -> None:
        """Say which object of the run directory it is that has failed."""
        items = os.path.basename(self._settings.item_files[0])
        self._say("fault", items if isinstance(error, PlanError) else self._settings.segment, str(error))

    def _load(self) -> bool:
        started = time.monotonic()
        try:
            self._loader = Loader(self._settings.sources, self._settings.partition_keys)
            self._script = EntryScript(self._settings, self._ask)
            self._script.load()
        except Gone:
            raise
        except ContractError as error:
            self._say("contract", str(error))
            return False
        except BaseException as error:  # noqa: BLE001 - user code; SystemExit too must be named, not obeyed
            self._say("init_failed", self._describe(error, "init()"))
            return False
        self._say("ready", round(time.monotonic() - started, 6))
        return True

    def _run_all(
        self, feed: int, ordinal: int, count: int, tries: int = 1, first: int | None = None, items: int = 0
    ) -> None:
        """Run what one entry of a ``run`` message says."""
        for n in range(count):
            part = None if first is None else slice(first, first + items)
            self._run(feed + n, ordinal + n, count - n, tries, part)
            if time.monotonic_ns() - self._last_report_ns >= GROUP_NS:
                self._tell()

    def _run(self, feed: int, ordinal: int, ahead: int, tries: int, part: slice | None) -> None:
        """Run one mini-batch, or a part of it.

        :param ahead: how many mini-batches from this one on are to be run here
        """
        loading_ns = self._page.write(page.LOAD, ordinal, feed)
        if self._page.revoked(feed):
            self._report.tell(
                protocol.Result(feed, ordinal, protocol.SKIPPED, 0, 0, 0, 0, 0, 0, 0.0, 0.0, None)
            )
            return
        loaded = self._loader.load(self._read(ordinal, ahead), part, ordinal)
        items, paths, wrong = loaded.items, loaded.paths, loaded.wrong
        if loaded.value is None:
            self._without_run(feed, ordinal, items, wrong)
            return
        origin = Origin(ordinal, paths, None if part is None else part.start, tries)
        running_ns = self._page.enter(page.RUN)
        cpu_started = time.process_time_ns()
        try:
            value = self._script.run(loaded, origin)
            cpu_ns = time.process_time_ns() - cpu_started
            ended_ns = self._page.enter(page.WRITE)
            returned = self._script.formatter.count(value, len(paths))
            if returned > len(paths) and not self._told_surplus:
                self._tell_surplus(returned, len(paths), ordinal)
            rows = self._script.formatter.rows(value, origin)
        except Gone:
            raise
        except BaseException as error:  # noqa: BLE001 - user code; SystemExit too is a failed try, not an exit
            cpu_seconds = (time.process_time_ns() - cpu_started) / 1e9
            seconds = (self._page.enter(page.WRITE) - running_ns) / 1e9
            self._failed(feed, ordinal, items, seconds, cpu_seconds, error)
            return
        if returned >= items and wrong is None and part is None and tries == 1:
            times_ns = loading_ns, running_ns, ended_ns, cpu_ns
            self._report.succeeded(feed, ordinal, items, returned, rows, times_ns)
            return
        short = None
        if wrong is not None:
            short = self._describe(wrong, f"mini-batch {ordinal}")
        elif returned < items:
            short = problem("ShortReturn", f"run() returned {returned} elements for {items} items")
        self._report.tell(
            protocol.Result(
                feed=feed,
                ordinal=ordinal,
                status=protocol.OK if short is None else protocol.SHORT,
                items_in=items,
                items_ok=min(returned, len(paths)),
                rows_out=returned,
                offset=self._segment.end if rows else 0,
                length=len(rows),
                crc32=zlib.crc32(rows),
                seconds=(ended_ns - running_ns) / 1e9,
                cpu_seconds=cpu_ns / 1e9,
                error=short,
            )
        )
        self._segment.append(rows)

    def _tell_surplus(self, returned: int, items: int, ordinal: int) -> None:
        self._told_surplus = True
        logger.warning(
            "run() returned %d elements for the %d items of mini-batch %d. All are written; with "
            "strict_returns it is an error (told once for each process)",
            returned,
            items,
            ordinal,
        )

    def _without_run(self, feed: int, ordinal: int, items: int, wrong: Exception | None) -> None:
        """Tell of a mini-batch of which there is nothing that run() could get."""
        if wrong is not None:
            self._failed(feed, ordinal, items, 0.0, 0.0, wrong)
            return
        self._report.tell(
            protocol.Result(feed, ordinal, protocol.OK, items, items, 0, 0, 0, 0, 0.0, 0.0, None)
        )

    def _failed(
        self, feed: int, ordinal: int, items: int, seconds: float, cpu_seconds: float, error: BaseException
    ) -> None:
        told = self._describe(error, f"mini-batch {ordinal}")
        self._report.tell(
            protocol.Result(feed, ordinal, protocol.FAILED, items, 0, 0, 0, 0, 0, seconds, cpu_seconds, told)
        )

    def _open_items(self) -> ItemReader:
        try:
            return ItemReader(*self._settings.item_files)
        except OSError as error:
            raise PlanError(str(error)) from error

    def _read(self, ordinal: int, ahead: int) -> list[Any]:
        try:
            return self._items.read(ordinal, ahead)
        except (OSError, ValueError) as error:
            raise PlanError(f"mini-batch {ordinal} cannot be read: {error}") from error

    def _tell(self) -> None:
        if data := self._report.take():
            self._send(data)
        self._last_report_ns = time.monotonic_ns()

    def _shutdown(self) -> None:
        self._page.write(page.SHUTDOWN)
        try:
            self._script.shutdown()
        except BaseException as error:  # noqa: BLE001 - user code; every row is in, so this fails nothing
            described = self._describe(error, "shutdown()")
            print(f"shutdown() failed: {described['traceback']}", file=sys.stderr)

    def _describe(self, error: BaseException, where: str) -> dict[str, Any]:
        if isinstance(error, RowError):  # no code is at fault, and none to be shown
            described = {**problem("RowError", str(error)), "rows": error.rows[:ROWS_TOLD]}
            told = "".join(f"{row}\n" for row in error.texts())
        else:
            described = describe(error, self._settings.source_directory)
            told = described["traceback"]
        os.makedirs(os.path.dirname(self._settings.error_log), exist_ok=True)
        with open(self._settings.error_log, "a", encoding="utf-8", errors="backslashreplace") as file:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            file.write(f"{stamp} {where}\n{told}\n")
        return described

    def _ask(self, subject: str, arguments: dict[str, Any]) -> Any:
        self._say("ask", subject, arguments)
        _, ok, value = self._receive("answer")
        if not ok:
            raise LookupError(value)
        return value

    def _take(self, message: list[Any]) -> None:
        if message[0] == "run":
            self._queue.extend(message[1])
        elif message[0] == "stop":
            self._stopping = True
        else:
            raise RuntimeError(f"unexpected message from the node: {message[0]}")

    def _receive(self, kind: str) -> list[Any]:
        """Wait for one kind of message; others stay in the inbox, in order."""
        passed: list[list[Any]] = []
        while True:
            message = self._next_message()
            if message[0] == kind:
                self._inbox.extendleft(reversed(passed))
                return message
            passed.append(message)

    def _next_message(self) -> list[Any]:
        while not self._inbox:
            data = self._channel.recv(_RECEIVE_BYTES)
            if not data:
                raise Gone
            self._inbox.extend(self._messages.feed(data))
        return self._inbox.popleft()

    def _say(self, *message: Any) -> None:
        self._send(protocol.encode([*message]))

    def _send(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Gone from error


def main(channel_fd: int, page_fd: int, segment_fd: int, parent: int) -> None:
    """Run a worker process; its three descriptors were inherited from the node."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A crash leaves its stack in the stderr log; and so does a process that takes too long: the node asks.
    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT)
    channel = socket.socket(fileno=channel_fd)
    shared = page.Page(page_fd)
    os.close(page_fd)
    for fd in (channel_fd, segment_fd):
        os.set_inheritable(fd, False)
    leaving = Leaving()
    worker = Worker(channel, shared, Segment(segment_fd))
    try:
        worker.serve()
    except Gone:
        os._exit(0)  # user threads must not keep an orphan alive
    except (SegmentError, PlanError) as error:
        worker.tell_fault(error)
        os._exit(1)
    leaving.source_directory, leaving.status = worker.source_directory, 0


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the node dies, also when the node is killed itself."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
