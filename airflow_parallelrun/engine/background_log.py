# SPDX-License-Identifier: Apache-2.0
"""The node's own log, written by a thread of its own.

Airflow reads a task's log from a socket, and little of it while its API server is away. A script that prints
much then fills the socket, and whoever logs has to wait: it must not be the thread that feeds the processes.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from contextvars import copy_context
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE, _ENGINE = "airflow_parallelrun", "airflow_parallelrun.engine"

# A node that was asked to stop must be gone within 4 s, also when nobody reads its log.
CLOSE_LIMIT_S = 1.0


@contextmanager
def background_log() -> Iterator[None]:
    """Within it nobody waits who logs in the engine.

    What nobody has read a second after the end is left to the thread; it is lost when the process ends.
    """
    engine = logging.getLogger(_ENGINE)
    records: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
    handler = QueueHandler(records)
    # Airflow keeps in context variables which task a line is from.
    arguments = (_pass_on, records)
    thread = threading.Thread(target=copy_context().run, args=arguments, name="log", daemon=True)
    thread.start()
    engine.addHandler(handler)
    engine.propagate = False
    try:
        yield
    finally:
        engine.propagate = True
        engine.removeHandler(handler)
        records.put(None)
        thread.join(CLOSE_LIMIT_S)


def _pass_on(records: SimpleQueue[logging.LogRecord | None]) -> None:
    package = logging.getLogger(_PACKAGE)
    while (record := records.get()) is not None:
        package.handle(record)
