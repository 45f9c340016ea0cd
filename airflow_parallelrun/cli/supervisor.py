# SPDX-License-Identifier: Apache-2.0
"""Runs the nodes of one run: a single one in this process, several in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

from .command import FAILED
from .node import NodeEnd, run_node

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Self

    from airflow_parallelrun.engine.plan import Plan

    from .progress import Board

# A node leaves within 4 s of being asked; then it is stuck.
SECONDS_TO_STOP = 5.0


def run_nodes(plan: Plan, board: Board) -> tuple[list[NodeEnd], int | None]:
    """Run every node of *plan* to its end.

    :returns: how each node ended, and the signal that stopped the run, if one did
    """
    return _run_here(plan, board) if plan.node_count == 1 else _run_processes(plan, board)


def _run_here(plan: Plan, board: Board) -> tuple[list[NodeEnd], int | None]:
    from airflow_parallelrun.engine.node import Node

    node = Node(plan.run_dir, 0, on_progress=board.update)
    with StopSignals(node.request_stop) as signals:
        return [run_node(node, 0)], signals.received


def _run_processes(plan: Plan, board: Board) -> tuple[list[NodeEnd], int | None]:
    nodes: list[NodeProcess] = []

    def stop() -> None:
        for node in nodes:
            node.stop()

    try:
        with StopSignals(stop) as signals:
            for index in range(plan.node_count):
                nodes.append(NodeProcess(plan.run_dir, index, board))
                if signals.received is not None:
                    # It came while this node was not on the list yet.
                    nodes[-1].stop()
            return [node.wait() for node in nodes], signals.received
    finally:
        for node in nodes:
            node.kill()


class StopSignals:
    """Within it, Ctrl-C, SIGTERM and SIGHUP ask for a stop; a second one is a KeyboardInterrupt."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._before: dict[int, Any] = {}
        self.received: int | None = None

    def __enter__(self) -> Self:
        """Take the signals over."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP on purpose.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_error: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        self._stop()


class NodeProcess:
    """A node in a process of its own, which stops when its stdin is closed or this process is gone."""

    def __init__(self, run_dir: str, index: int, board: Board) -> None:
        self._index = index
        self._board = board
        self._end: NodeEnd | None = None
        # -m puts the working directory first on sys.path; not unless it is there already.
        safe = [] if os.getcwd() in sys.path else ["-P"]
        command = [sys.executable, *safe, "-m", __package__, "node", run_dir, str(index)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def wait(self) -> NodeEnd:
        """Wait for the end."""
        self._reader.join()
        status = self._process.wait()
        self._close_stdin()
        lost = f"node {self._index} ended without a report (exit status {status})"
        return self._end or NodeEnd(self._index, FAILED, lost)

    def stop(self) -> None:
        """Ask the node to stop, and see to it that it does."""
        self._close_stdin()
        killer = threading.Timer(SECONDS_TO_STOP, self.kill)
        killer.daemon = True
        killer.start()

    def kill(self) -> None:
        """End the process, if it still runs; its guardian ends the workers."""
        self._process.kill()
        self._process.wait()

    def _close_stdin(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()

    def _read(self, reports: IO[str]) -> None:
        from airflow_parallelrun.engine.progress import Progress

        with reports:
            for line in reports:
                report = json.loads(line)
                if "progress" in report:
                    self._board.update(Progress(**report["progress"]))
                else:
                    self._end = NodeEnd(**report["end"])
