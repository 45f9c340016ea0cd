# SPDX-License-Identifier: Apache-2.0
"""A worker process: takes mini-batches from the node, runs them one after the other, and says how it went.

Rows are in the segment before their mini-batch is reported. Reports are grouped: nothing waits longer than
``GROUP_S`` for the next mini-batch to end, except behind one that is slow.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import sys
import time
from collections import deque
from typing import Any

from . import logs, page, protocol
from .errors import ContractError, InputChangedError, describe, problem
from .output import Extent, Origin, Segment, SegmentError
from .runtime import EntryScript, Item, Settings, unchanged

# Measured: an acknowledgement of its own costs 8 µs, one in a group 0.4 µs.
GROUP_S = 0.01

_PR_SET_PDEATHSIG = 1
_RECEIVE_BYTES = 1 << 18


class Gone(BaseException):
    """The node has closed the socket: it is over. No user code may catch it by accident."""


class Worker:
    """The loop of one worker process."""

    def __init__(self, channel: socket.socket, shared: page.Page, segment: Segment) -> None:
        self._channel = channel
        self._page = shared
        self._segment = segment
        self._lines = protocol.LineReader()
        self._inbox: deque[list[Any]] = deque()
        self._queue: deque[Any] = deque()
        self._results: list[protocol.Result] = []
        self._last_report = time.monotonic()
        self._stopping = False

    def serve(self) -> None:
        """Run until the node says stop, or is gone."""
        self._send(["hello", protocol.VERSION])
        self._settings = Settings(**self._receive("start")[1])
        logs.set_up(
            self._settings.logging_level,
            os.path.join(self._settings.log_dir, f"{self._settings.agent_name}.log.txt"),
        )
        if not self._load():
            return
        while True:
            if not self._queue:
                self._report()
                if self._stopping:
                    break
                self._page.write(page.IDLE)
                self._take(self._next_message())
            while self._inbox:
                self._take(self._inbox.popleft())
            if self._queue:
                self._run(*self._queue.popleft())
        self._shutdown()
        self._send(["bye"])

    def _load(self) -> bool:
        started = time.monotonic()
        try:
            self._script = EntryScript(self._settings, self._ask)
            self._script.load()
        except Gone:
            raise
        except ContractError as error:
            self._send(["contract", str(error)])
            return False
        except BaseException as error:  # noqa: BLE001 - user code; SystemExit too must be named, not obeyed
            self._send(["init_failed", self._describe(error, "init()")])
            return False
        self._send(["ready", round(time.monotonic() - started, 6)])
        return True

    def _run(
        self, feed: int, ordinal: int, items: list[Item], tries: int = 1, first: int | None = None
    ) -> None:
        self._page.write(page.LOAD, ordinal, feed)
        if self._page.revoked(feed):
            self._add(
                protocol.Result(feed, ordinal, protocol.SKIPPED, len(items), 0, 0, 0, 0, 0, 0.0, 0.0, None)
            )
            return
        paths, changed = unchanged(items)
        if not paths:
            self._fail(
                feed, ordinal, items, 0.0, 0.0, changed or InputChangedError("the mini-batch is empty")
            )
            return
        self._page.write(page.RUN, ordinal, feed)
        started, cpu_started = time.monotonic(), time.process_time()
        try:
            value = self._script.run(paths, str(ordinal) if first is None else f"{ordinal}.{first}")
            seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
            self._page.write(page.WRITE, ordinal, feed)
            returned = self._script.formatter.count(value, len(paths))
            rows = self._script.formatter.rows(value, Origin(ordinal, paths, first or 0, tries))
        except Gone:
            raise
        except BaseException as error:  # noqa: BLE001 - user code; SystemExit too is a failed try, not an exit
            seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
            self._fail(feed, ordinal, items, seconds, cpu_seconds, error)
            return
        extent = self._segment.append(rows) if rows else Extent(0, 0, 0)
        items_ok = min(returned, len(paths))
        short = None
        if changed is not None:
            short = self._describe(changed, f"mini-batch {ordinal}")
        elif items_ok < len(items):
            short = problem("ShortReturn", f"run() returned {returned} elements for {len(items)} items")
        status = protocol.OK if short is None else protocol.SHORT
        self._add(
            protocol.Result(
                feed, ordinal, status, len(items), items_ok, returned, *extent, seconds, cpu_seconds, short
            )
        )

    def _fail(
        self,
        feed: int,
        ordinal: int,
        items: list[Item],
        seconds: float,
        cpu_seconds: float,
        error: BaseException,
    ) -> None:
        described = self._describe(error, f"mini-batch {ordinal}")
        self._add(
            protocol.Result(
                feed, ordinal, protocol.FAILED, len(items), 0, 0, 0, 0, 0, seconds, cpu_seconds, described
            )
        )

    def _add(self, result: protocol.Result) -> None:
        self._results.append(result)
        if time.monotonic() - self._last_report >= GROUP_S:
            self._report()

    def _report(self) -> None:
        if self._results:
            self._send(["done", self._results])
            self._results = []
        self._last_report = time.monotonic()

    def _shutdown(self) -> None:
        self._page.write(page.SHUTDOWN)
        try:
            self._script.shutdown()
        except BaseException as error:  # noqa: BLE001 - user code; every row is in, so this fails nothing
            described = self._describe(error, "shutdown()")
            print(f"shutdown() failed: {described['traceback']}", file=sys.stderr)

    def _describe(self, error: BaseException, where: str) -> dict[str, Any]:
        described = describe(error, self._settings.source_directory)
        os.makedirs(os.path.dirname(self._settings.error_log), exist_ok=True)
        with open(self._settings.error_log, "a", encoding="utf-8", errors="backslashreplace") as file:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            file.write(f"{stamp} {where}\n{described['traceback']}\n")
        return described

    def _ask(self, subject: str, arguments: dict[str, Any]) -> Any:
        self._send(["ask", subject, arguments])
        _, ok, value = self._receive("answer")
        if not ok:
            raise LookupError(value)
        return value

    def _take(self, message: list[Any]) -> None:
        if message[0] == "run":
            self._queue.extend(map(tuple, message[1]))
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
            self._inbox.extend(self._lines.feed(data))
        return self._inbox.popleft()

    def _send(self, message: list[Any]) -> None:
        try:
            self._channel.sendall(protocol.encode(message))
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
    worker = Worker(channel, shared, Segment(segment_fd))
    try:
        worker.serve()
    except Gone:
        os._exit(0)  # user threads must not keep an orphan alive
    except SegmentError as error:
        worker._send(["fault", str(error)])
        os._exit(1)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the node dies, also when the node is killed itself."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
