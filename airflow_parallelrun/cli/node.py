# SPDX-License-Identifier: Apache-2.0
"""``parallelrun node RUN_DIR INDEX``: one node of a run, started by ``parallelrun run`` and not by people.

It speaks JSON lines on its stdout: ``{"progress": {…}}`` any number of times, then one
``{"end": {…}}``. At end of file on its stdin it stops, so it never outlives the run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import InterruptedRunError, ParallelRunError

from .command import describe, exit_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_parallelrun.engine.node import Node


@dataclasses.dataclass(frozen=True)
class NodeEnd:
    """How a node ended.

    :param node: its index
    :param status: the exit status that this end deserves
    :param message: what went wrong; empty where nothing did
    :param interrupted: it was asked to stop, or was superseded
    :param superseded: another process goes on with the run
    """

    node: int
    status: int = 0
    message: str = ""
    interrupted: bool = False
    superseded: bool = False


def main(given: Sequence[str]) -> int:
    """Run one node, and report on stdout."""
    run_dir, index = given
    # Only reports go to the pipe, whatever else may print in this process.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def report(kind: str, value: Any) -> None:
        print(json.dumps({kind: dataclasses.asdict(value)}), file=channel)

    from airflow_parallelrun.engine.node import Node

    node = Node(run_dir, int(index), on_progress=lambda progress: report("progress", progress))
    # Ctrl-C reaches every process of the terminal; the one that started the nodes decides.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, lambda _number, _frame: node.request_stop())
    threading.Thread(target=_stop_at_end_of_input, args=(node,), daemon=True).start()
    report("end", run_node(node, int(index)))
    return 0


def run_node(node: Node, index: int) -> NodeEnd:
    """Run *node* to its end, whatever that is."""
    try:
        node.run()
    except InterruptedRunError as error:
        return NodeEnd(index, message=str(error), interrupted=True, superseded=error.superseded)
    except ParallelRunError as error:
        return NodeEnd(index, exit_status(error), describe(error))
    # An aborted node is no failure of its own: reduce says what broke the threshold.
    return NodeEnd(index)


def _stop_at_end_of_input(node: Node) -> None:
    # Not sys.stdin: its lock would be held by this thread when the interpreter shuts down.
    while os.read(sys.__stdin__.fileno() if sys.__stdin__ else 0, 1):
        continue
    node.request_stop()
