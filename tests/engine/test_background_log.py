# SPDX-License-Identifier: Apache-2.0
"""A log that nobody reads: the node works on, and shows in the end what it had to say."""

from __future__ import annotations

import logging
import re
import threading
import time
from contextvars import ContextVar
from pathlib import Path

import pytest
from workbench import journalled

from airflow_parallelrun.engine.background_log import background_log
from airflow_parallelrun.exceptions import EntryScriptInitError

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
            committed[:] = journalled(journal)
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


def own_log(job, attempt="0-1"):
    return (job.output / "logs" / "sys" / "node" / f"{attempt}.log.txt").read_text()


SHAKY = """
    def run(mini_batch):
        print("said by the script")
        if mini_batch[0].endswith("00000"):
            raise ValueError("broken")
        return [os.path.basename(path) for path in mini_batch]
"""


def test_a_node_keeps_a_log_of_its_own_whatever_the_scripts_level_is(job, caplog):
    caplog.set_level("WARNING", logger="airflow_parallelrun")
    job.files(4).split(SHAKY, run_max_try=1, error_threshold=1, logging_level="WARNING")
    job.node()
    lines = own_log(job).splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING) ", line) for line in lines)
    assert "INFO node 0-1 of 1, round 0: up to 2 processes" in lines[0]
    assert "WARNING mini-batch 0, try 1 of 1, failed: ValueError: broken" in own_log(job)
    assert lines[-1].endswith("INFO node 0-1 finished: 4 mini-batches done")
    assert "said by the script" not in own_log(job)
    assert {record.levelname for record in caplog.records if ".engine" in record.name} == {"WARNING"}


def test_each_start_of_a_node_has_a_log_and_says_why_it_failed(job, echo):
    init = "def init():\n    raise OSError('no weights')\n"
    job.files(2).split(init + echo, process_count_per_node=1)
    for attempt in ("0-1", "0-2"):
        with pytest.raises(EntryScriptInitError):
            job.node()
        assert f"INFO node {attempt} failed: 3 processes of node 0 in a row died" in own_log(job, attempt)
        assert "OSError: no weights" in own_log(job, attempt)


def test_two_nodes_in_one_process_leave_the_level_as_it_was():
    engine = logging.getLogger("airflow_parallelrun.engine")
    one, other = background_log(), background_log()
    for each in (one, other):
        each.__enter__()
    for each in (one, other):
        each.__exit__(None, None, None)
    assert (engine.level, engine.propagate, engine.handlers) == (logging.NOTSET, True, [])


def test_a_disk_that_refuses_the_log_stops_nobody(job, echo, caplog):
    job.files(2).split(echo)
    blocked = job.output / "logs" / "sys" / "node"
    blocked.parent.mkdir(parents=True)
    blocked.touch()
    assert job.node().outcome == "finished"
    assert caplog.text.count("0-1.log.txt is not written: [Errno 17] File exists") == 1
    assert job.reduce().verdict == "succeeded"


def test_a_disk_that_is_full_stops_nobody(caplog):
    logger = logging.getLogger("airflow_parallelrun.engine.some")
    with background_log() as log:
        log.name("/dev/full")
        for _ in range(3):
            logger.info("a line")
    assert caplog.text.count("/dev/full is not written: [Errno 28]") == 1


def test_what_is_logged_early_or_unread_is_in_the_file(socket, caplog, tmp_path):
    caplog.set_level("INFO", logger="airflow_parallelrun")
    path = tmp_path / "new" / "0-1.log.txt"
    logger = logging.getLogger("airflow_parallelrun.engine.some")
    with background_log() as log:
        logger.info("early")
        logger.debug("hidden")
        log.name(str(path))
        logger.warning("late %s", "\udcff")
    assert socket.lines == []
    assert [line.split(" ", 1)[1] for line in path.read_text().splitlines()] == [
        "INFO early",
        "WARNING late \\udcff",
    ]
