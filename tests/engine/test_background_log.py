# SPDX-License-Identifier: Apache-2.0
"""A log that nobody reads: the node works on, and shows in the end what it had to say."""

from __future__ import annotations

import logging
import threading
import time
from contextvars import ContextVar
from pathlib import Path

import pytest

from airflow_parallelrun.engine.background_log import background_log

TASK = ContextVar("task", default="none")


class Socket(logging.Handler):
    """A log that takes nothing until it is read."""

    def __init__(self):
        super().__init__()
        self.is_read = threading.Event()
        self.lines = []

    def emit(self, record):
        assert self.is_read.wait(60)
        self.lines.append((TASK.get(), record.name, record.getMessage()))


@pytest.fixture
def socket():
    handler = Socket()
    logging.getLogger().addHandler(handler)
    yield handler
    handler.is_read.set()
    logging.getLogger().removeHandler(handler)


def test_a_node_does_not_wait_for_who_reads_its_log(job, socket, caplog):
    script = """
        def run(mini_batch):
            print("x" * 100)
            if mini_batch[0].endswith("00000"):
                raise ValueError("broken")
            return [os.path.basename(path) for path in mini_batch]
    """
    caplog.set_level("INFO", logger="airflow_parallelrun")
    job.files(50).split(script, run_max_try=1, error_threshold=1)
    journal = Path(job.plan.run_dir) / "journal" / "0-1-0.jsonl"
    committed = []

    def read_when_all_is_committed():
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            committed[:] = journal.read_text().splitlines()[1:] if journal.exists() else []
            if len(committed) == 50:
                break
            time.sleep(0.05)
        socket.is_read.set()

    reader = threading.Thread(target=read_when_all_is_committed)
    reader.start()
    job.node()
    reader.join()
    assert len(committed) == 50
    text = "\n".join(message for _, _, message in socket.lines)
    for expected in ("node 0-1 of 1", "ValueError: broken", "node 0-1 finished: 50 mini-batches done"):
        assert expected in text


def test_lines_keep_their_context_their_order_and_their_level(socket, caplog):
    caplog.set_level("INFO", logger="airflow_parallelrun")
    socket.is_read.set()
    TASK.set("predict")
    logger = logging.getLogger("airflow_parallelrun.engine.some")
    with background_log():
        logger.debug("hidden")
        for number in range(3):
            logger.info("line %d", number)
    TASK.set("none")
    logger.info("after")
    name = "airflow_parallelrun.engine.some"
    lines = [("predict", name, f"line {number}") for number in range(3)]
    assert socket.lines == [*lines, ("none", name, "after")]


def test_the_end_does_not_wait_for_ever(socket, caplog):
    caplog.set_level("INFO", logger="airflow_parallelrun")
    with background_log():
        logging.getLogger("airflow_parallelrun.engine.some").info("unread")
    assert socket.lines == []
    socket.is_read.set()
    deadline = time.monotonic() + 30
    while not socket.lines:
        assert time.monotonic() < deadline
        time.sleep(0.01)
