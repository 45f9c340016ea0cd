# SPDX-License-Identifier: Apache-2.0
"""Temporary files: those of a writer that was killed are removed, those of one that lives are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from airflow_parallelrun.engine import ownership, pool
from airflow_parallelrun.engine.leftovers import remove_temporaries
from airflow_parallelrun.engine.store import TEMPORARY
from airflow_parallelrun.worker import page

# Is killed, or waits, when its file is written and has not got its name.
WRITER = """
import os, signal, sys
from airflow_parallelrun.engine import ownership, store
def meet(source, target):
    print("written", flush=True)
    signal.pause()
store.os.link = store.os.replace = meet
if sys.argv[2] == "result":
    with ownership.publishing(sys.argv[1], "rows.txt") as file:
        file.write(b"rows")
        file.flush()
        meet("", "")
getattr(store.Store(sys.argv[1]), sys.argv[2])("claims/0/1", b"mine")
"""


def temporaries(folder):
    """The temporary files below a folder."""
    return [name for _, _, names in os.walk(folder) for name in names if name.startswith(TEMPORARY)]


@pytest.mark.parametrize("what", ["create_exclusive", "put", "result"])
def test_only_what_a_dead_writer_left_is_removed(tmp_path, what):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), what], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            remove_temporaries(str(tmp_path))
            assert len(temporaries(tmp_path)) == 1
        finally:
            writer.send_signal(signal.SIGKILL)
    remove_temporaries(str(tmp_path))
    assert temporaries(tmp_path) == []


def test_reduce_leaves_nothing_behind_and_nothing_foreign_out(job, echo):
    job.files(2).split(echo).node()
    (job.output / f"{TEMPORARY}0123456789abcdef").write_text("somebody else's")
    for folder in (ownership.folder(str(job.output)), job.plan.run_dir + "/attempts"):
        with open(f"{folder}/{TEMPORARY}dead", "w"):
            pass
    job.reduce()
    assert temporaries(job.output) == [f"{TEMPORARY}0123456789abcdef"]


def test_a_page_has_its_place_on_the_disk_before_it_is_mapped(job, echo, monkeypatch):
    blocks = []

    def mapped(fd):
        blocks.append(os.fstat(fd).st_blocks)
        return page.Page(fd)

    monkeypatch.setattr(pool, "page", SimpleNamespace(**{**vars(page), "Page": mapped}))
    job.files(1).split(echo).node()
    assert blocks and min(blocks) * 512 >= page.SIZE
