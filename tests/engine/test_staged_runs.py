# SPDX-License-Identifier: Apache-2.0
"""Runs over what lies in stores: nodes copy it for their processes, which know of no store."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import threading
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from engine.workbench import wait_for
from memory_shop import URL, opened

from airflow_parallelrun.datasets import FileDataset, TabularDataset
from airflow_parallelrun.datasets.copies import PIECE_BYTES
from airflow_parallelrun.engine.node import Node
from airflow_parallelrun.exceptions import InterruptedRunError

if TYPE_CHECKING:
    from pathlib import Path

READ = """
import os
def run(mini_batch):
    called(mini_batch)
    assert not [name for name in os.environ if "CONNECTION" in name]
    return [f"{os.path.basename(path)} {open(path).read()}" for path in mini_batch]
"""
# Dies with the file "04", the first time.
DIES = """
import os, signal
def run(mini_batch):
    called(mini_batch)
    for path in mini_batch:
        assert os.path.exists(path)
        if path.endswith("04") and not os.path.exists({flag!r}):
            open({flag!r}, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    return [open(path).read() for path in mini_batch]
"""

ROWS = 600


@pytest.fixture
def shop():
    with opened() as made:
        yield made


def mounted(url=URL):
    return (FileDataset.from_files(url).as_mount(),)


def written(folder: Path) -> str:
    """Everything that a run has left."""
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_files_in_a_store(job, input_store):
    for number in range(8):
        input_store.write(f"in/sub/{number:02d}", str(number).encode())
    input_store.write("in/empty")
    input_store.write("in/changes", b"before")
    input_store.write("in/goes", b"x")
    url = f"{input_store.url}/in"
    job.split(READ, inputs=mounted(url), mini_batch_size=2, provenance_columns=["source"], error_threshold=2)
    # Of the same size, and maybe in the same second, which is all that SFTP tells.
    input_store.write("in/changes", b"behind" if input_store.scheme != "sftp" else b"after")
    input_store.fs.rm(f"{input_store.container}/in/goes")
    result = job.run()
    rows = [f"{url}/empty", *(f"{url}/sub/{number:02d}" for number in range(8))]
    assert [row.split(" ")[-1] for row in job.rows()] == rows
    assert [row.split(" ")[0] for row in job.rows()] == [row.rpartition("/")[2] for row in rows]
    assert (result.counts.items, result.counts.items_succeeded) == (11, 9)
    errors = [each["error"] for each in job.failed_items()]
    assert {error["type"] for error in errors} == {"InputChangedError"}
    assert [error["message"] for error in errors] == [
        f"{url}/changes has changed since it was listed",
        f"{url}/goes was listed and is not there any more",
    ]
    assert input_store.secret not in written(job.output)


def test_a_large_file_in_a_store(job, input_store):
    data = random.Random(7).randbytes(3 * PIECE_BYTES + 5)
    input_store.write("in/large", data)
    script = """
        import hashlib
        def run(mini_batch): return [hashlib.sha256(open(mini_batch[0], "rb").read()).hexdigest()]
    """
    job.split(script, inputs=mounted(f"{input_store.url}/in")).run()
    assert job.rows() == [hashlib.sha256(data).hexdigest()]


def test_tables_in_a_store(job, input_store):
    frame = pd.DataFrame({"n": range(ROWS), "t": [f"row {n}" for n in range(ROWS)]})
    text, parquet = frame.to_csv(index=False).encode(), io.BytesIO()
    frame.assign(other="x").to_parquet(parquet, row_group_size=ROWS // 2)
    lines = frame.to_json(orient="records", lines=True).encode()
    multi = frame.assign(t=[f"row\n{n}" for n in range(ROWS)]).to_csv(index=False).encode()
    of = {
        name: input_store.write(f"in/{name}", data)
        for name, data in (
            ("t.csv", text),
            ("t.csv.gz", gzip.compress(text)),
            ("t.jsonl", lines),
            ("t.parquet", parquet.getvalue()),
            ("multi.csv", multi),
        )
    }
    inputs = (
        TabularDataset.from_delimited_files(of["t.csv"]).as_direct(),
        TabularDataset.from_delimited_files(of["t.csv.gz"]).as_direct(),
        TabularDataset.from_json_lines_files(of["t.jsonl"]).as_direct(),
        TabularDataset.from_parquet_files(of["t.parquet"]).keep_columns(["n", "t"]).as_direct(),
        TabularDataset.from_delimited_files(of["multi.csv"], support_multi_line=True).as_direct(),
    )
    script = "def run(frame): return [f'{n} {t.split()[1]}' for n, t in zip(frame['n'], frame['t'])]\n"
    result = job.split(script, inputs=inputs, mini_batch_size="4KB").run()
    assert job.rows() == 5 * [f"{n} {n}" for n in range(ROWS)]
    assert result.counts.items_succeeded == 5 * ROWS
    assert input_store.secret not in written(job.output)


def test_rows_of_a_mini_batch_whose_process_died_are_counted_from_its_copy(job, shop):
    url = shop.add("t.csv", b"n\n" + b"".join(b"%d\n" % n for n in range(100)))
    script = """
        import os, signal
        def run(frame):
            if 50 in set(frame["n"]):
                os.kill(os.getpid(), signal.SIGKILL)
            return frame
    """
    inputs = (TabularDataset.from_delimited_files(url).as_direct(),)
    result = job.split(script, inputs=inputs, mini_batch_size=100, error_threshold=-1, run_max_try=1).run()
    assert result.counts.items == 100
    assert not result.counts.items_at_least
    assert len(job.rows()) == result.counts.items_succeeded > 60


def test_copies_stay_for_the_next_try_and_are_gone_when_the_node_is(job, shop):
    for number in range(10):
        shop.add(f"{number:02d}", str(number).encode())
    flag = str(job.folder / "flag")
    job.split(DIES.format(flag=flag), inputs=mounted(), mini_batch_size=2).run()
    assert job.rows() == [str(number) for number in range(10)]
    assert job.calls()["04"] == 2
    assert sorted(name for name, _, _ in shop.requests) == [f"{number:02d}" for number in range(10)]


def test_what_cannot_be_read_is_charged_and_bisected_mini_batches_keep_their_copies(job, shop):
    for number in range(6):
        shop.add(f"{number}", str(number).encode())

    def before(path):
        if path.endswith("/1"):
            raise PermissionError("no")

    shop.before = before
    script = """
        def run(mini_batch):
            assert not any(path.endswith("/4") for path in mini_batch)
            return [open(path).read() for path in mini_batch]
    """
    job.split(script, inputs=mounted(), mini_batch_size=3, bisect_failures=True, error_threshold=2)
    result = job.run()
    assert job.rows() == ["0", "2", "3", "5"]
    assert result.counts.items_succeeded == 4
    assert [each["error"]["type"] for each in job.failed_items()] == ["LoadError", "AssertionError"]
    assert sorted(name for name, _, _ in shop.requests) == ["0", "2", "3", "4", "5"]


def test_a_node_that_waits_for_a_store_stops_when_it_is_asked_to_and_goes_on_later(job, shop):
    for number in range(12):
        shop.add(f"{number:02d}", str(number).encode())
    job.split(READ, inputs=mounted())
    never = threading.Event()
    shop.before = lambda path: never.wait(60) if path.endswith("05") else None
    node = Node(job.plan.run_dir, 0)
    stopped = []

    def run():
        try:
            node.run()
        except InterruptedRunError as error:
            stopped.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_for(lambda: sum(job.calls().values()) == 11)
        node.request_stop()
        thread.join(4)
        assert not thread.is_alive()
        assert stopped[0].done == 11
    finally:
        never.set()
    shop.before = lambda path: None
    job.run()
    assert job.rows() == [f"{number:02d} {number}" for number in range(12)]
    assert job.calls()["05"] == 1


def test_a_job_that_waits_for_a_store_too_long_is_aborted(job, shop):
    shop.add("x", b"x")
    never = threading.Event()
    shop.before = lambda path: never.wait(60)
    job.split(READ, inputs=mounted(), progress_update_timeout=1)
    try:
        result = job.node()
    finally:
        never.set()
    assert result.outcome == "aborted"
    assert "no mini-batch was finished for" in result.message
    assert "1 wait for their files" in result.message


def test_nothing_is_left_in_the_temporary_folder(job, shop, monkeypatch, tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    shop.add("x", b"x")
    job.split(READ, inputs=mounted()).run()
    assert os.listdir(temporary) == []
