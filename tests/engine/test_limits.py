# SPDX-License-Identifier: Apache-2.0
"""The limits beside the one of run(): each is of the phase that a real process is in, under its own name."""

from __future__ import annotations

import logging

import pytest

LOAD = """
    import time
    look = os.stat
    def slow(path, *args, **named):
        if str(path).endswith("00001"):
            time.sleep(600)
        return look(path, *args, **named)
    os.stat = slow
    def run(mini_batch): return [os.path.basename(path) for path in mini_batch]
"""

WRITE = """
    import time
    class Slow:
        def __str__(self): time.sleep(600)
    def run(mini_batch):
        return [Slow() if path.endswith("00001") else os.path.basename(path) for path in mini_batch]
"""

SHUTDOWN = """
    import time
    def run(mini_batch): return [os.path.basename(path) for path in mini_batch]
    def shutdown(): time.sleep(600)
"""


@pytest.mark.parametrize(
    ("script", "what"), [(LOAD, "loading the mini-batch"), (WRITE, "writing the rows")], ids=["load", "write"]
)
def test_what_comes_before_and_after_run_has_a_limit(job, script, what):
    job.files(4).split(script, task_overhead_timeout=1, run_max_try=1, error_threshold=1).run()
    assert job.rows() == job.names(4, without={1})
    (line,) = job.failed_items()
    assert line["error"]["type"] == "OverheadTimeout"
    assert line["error"]["message"] == f"{what} took longer than 1 s (task_overhead_timeout)"
    assert line["error"]["frame"].startswith("score.py, line")


def test_a_shutdown_over_its_limit_is_killed_and_fails_nothing(job, caplog):
    caplog.set_level(logging.WARNING, logger="airflow_parallelrun")
    result = job.files(4).split(SHUTDOWN, shutdown_timeout=1, process_count_per_node=1).run()
    assert result.verdict == "succeeded"
    assert job.rows() == job.names(4)
    assert "shutdown() took longer than 1 s (shutdown_timeout)" in caplog.text
