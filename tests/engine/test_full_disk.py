# SPDX-License-Identifier: Apache-2.0
"""R4: a store that refuses is nobody's fault: no mini-batch is charged, and the next attempt finishes."""

from __future__ import annotations

from pathlib import Path

import pytest
from workbench import journalled

from airflow_parallelrun.engine import committer
from airflow_parallelrun.exceptions import StorageError

SCRIPT = """
    import resource, sys
    def init():
        if not os.path.exists(MENDED):
            sys.modules["_parallelrun_worker.output"]._WRITE_TRIES = 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
    def run(mini_batch):
        return [os.path.basename(path) + " " + "x" * 40 for path in mini_batch]
"""


def test_a_segment_that_cannot_be_written_charges_nobody(job):
    script = SCRIPT.replace("MENDED", repr(str(job.folder / "mended")))
    job.files(20).split(script, run_max_try=1, error_threshold=0, process_count_per_node=1)
    with pytest.raises(StorageError, match=r"segments/0-1-0-0: .*File too large") as caught:
        job.node()
    assert caught.value.retryable
    journal = Path(job.plan.run_dir) / "journal" / "0-1-0.jsonl"
    assert {line.status for line in journalled(journal)} <= {"ok"}
    (job.folder / "mended").touch()
    result = job.run()
    assert (result.verdict, result.counts.succeeded) == ("succeeded", 20)
    assert [row.split()[0] for row in job.rows()] == job.names(20)


def test_a_journal_that_cannot_be_written_charges_nobody(job, echo, monkeypatch):
    def full(fd, data, at):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(committer, "BACKOFF_S", 0.0)
    monkeypatch.setattr(committer, "WRITE_TRIES", 1)
    job.files(5).split(echo, run_max_try=1, process_count_per_node=1)
    monkeypatch.setattr(committer.os, "pwrite", full)
    with pytest.raises(StorageError, match="No space left on device"):
        job.node()
    monkeypatch.undo()
    result = job.run()
    assert (result.verdict, result.counts.succeeded) == ("succeeded", 5)
    assert job.rows() == job.names(5)
