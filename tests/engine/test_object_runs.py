# SPDX-License-Identifier: Apache-2.0
"""Runs whose output and run directory are in an object store, from beginning to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from workbench import wait_for

from airflow_parallelrun.engine import assembly, committed_objects, object_writer
from airflow_parallelrun.engine.ledger import Span
from airflow_parallelrun.engine.node import Node
from airflow_parallelrun.engine.object_store import ObjectStore, store_at
from airflow_parallelrun.engine.objects import objects_at
from airflow_parallelrun.exceptions import (
    InterruptedRunError,
    OutputExistsError,
    OutputOwnedError,
    ThresholdExceededError,
)
from airflow_parallelrun.worker import page

if TYPE_CHECKING:
    import storage_servers
    from conftest import Job

    from airflow_parallelrun.engine.store import Store

HALF_FAIL = """
def run(mini_batch):
    called(mini_batch)
    if int(os.path.basename(mini_batch[0])) % 2:
        raise ValueError("odd")
    return [os.path.basename(path) for path in mini_batch]
"""


def rows(store: storage_servers.ObjectStore, folder: str = "out") -> list[str]:
    return store.read(f"{folder}/parallel_run_step.txt").decode().splitlines()


def test_a_run_leaves_the_same_as_on_a_file_system(
    job: Job, echo: str, object_store: storage_servers.ObjectStore
) -> None:
    job.files(30).split(echo, output=f"{object_store.url}/out", node_count=2, mini_batch_size=4)
    assert job.plan.run_dir.startswith(f"{object_store.url}/out/.parallelrun/")
    result = job.run()
    assert rows(object_store) == job.names(30)
    assert result.output_file == f"{object_store.url}/out/parallel_run_step.txt"
    assert result.counts.items_succeeded == 30
    assert json.loads(object_store.read("out/job_result.json")) == json.loads(result.to_json())
    found = object_store.paths("out")
    assert {path for path in found if "/.parallelrun/" not in path and "/logs/" not in path} == {
        "out/job_result.json",
        "out/parallel_run_step.txt",
    }
    logs = [path.removeprefix("out/logs/") for path in found if "/logs/" in path]
    assert {
        "sys/node/0-1.log.txt",
        "sys/node/1-1.log.txt",
        "sys/job_report/processed_mini-batches.csv",
    } < set(logs)
    assert b"0-1 finished" in object_store.read("out/logs/sys/node/0-1.log.txt")
    # Once more: the same verdict, and what is published stays.
    before = object_store.fs.info(f"{object_store.container}/out/parallel_run_step.txt")
    assert job.reduce().counts == result.counts
    after = object_store.fs.info(f"{object_store.container}/out/parallel_run_step.txt")
    assert before == after


def test_the_run_directory_may_be_in_another_place_than_the_output(
    job: Job, echo: str, azure_store: storage_servers.ObjectStore
) -> None:
    job.files(6).split(echo, output="output", storage_root=f"{azure_store.url}/runs")
    job.run()
    assert job.rows() == job.names(6)
    job.split(echo, output=f"{azure_store.url}/out", storage_root="runs").run()
    assert rows(azure_store) == job.names(6)


def test_failures_are_told_and_done_again_in_the_next_round(
    job: Job, echo: str, object_store: storage_servers.ObjectStore
) -> None:
    job.files(8).split(HALF_FAIL, output=f"{object_store.url}/out", error_threshold=3, run_max_try=1)
    job.node()
    with pytest.raises(ThresholdExceededError, match="odd") as caught:
        job.reduce()
    assert f"{object_store.url}/out/logs/user/error/" in str(caught.value)
    failed = [json.loads(line) for line in object_store.read("out/failed_items.jsonl").splitlines()]
    assert [os.path.basename(line["item"]) for line in failed] == ["00001", "00003", "00005", "00007"]
    log = failed[0]["error"]["log"]
    assert b"ValueError: odd" in object_store.read(log.removeprefix(f"{object_store.url}/"))
    assert "out/parallel_run_step.txt" not in object_store.paths("out")
    # The script is mended, as a resume with other code would have it.
    store = job.plan.store
    job.split(echo, output=f"{object_store.url}/mended")
    store.put("code.zip", job.plan.store.read("code.zip"))
    result = Node(store.root, 0).run()
    assert result.progress.mini_batches_done == 4
    from airflow_parallelrun.engine.reduce import reduce

    assert reduce(store.root).counts.succeeded == 8
    assert rows(object_store) == job.names(8)
    assert "out/failed_items.jsonl" not in object_store.paths("out")


def test_a_node_that_is_asked_to_stop_commits_what_it_has(
    job: Job, object_store: storage_servers.ObjectStore
) -> None:
    script = """
import time
def run(mini_batch):
    called(mini_batch)
    name = os.path.basename(mini_batch[0])
    while int(name) > 2 and not os.path.exists("%s"):
        time.sleep(0.02)
    return [name]
"""
    go = job.folder / "go"
    job.files(6).split(script % go, output=f"{object_store.url}/out", process_count_per_node=1)
    node = Node(job.plan.run_dir, 0)

    def stop() -> None:
        wait_for(lambda: sum(job.calls().values()) >= 4)
        node.request_stop()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(InterruptedRunError):
        node.run()
    thread.join()
    go.touch()
    committed = job.node().progress.mini_batches_before
    assert committed
    job.reduce()
    assert rows(object_store) == job.names(6)
    assert list(job.calls().values()).count(1) >= committed


def test_what_kills_a_machine_is_known_from_the_store(
    job: Job, azure_store: storage_servers.ObjectStore
) -> None:
    script = """
import time
def run(mini_batch):
    called(mini_batch)
    if mini_batch[0].endswith("2"):
        time.sleep(600)
    return [os.path.basename(path) for path in mini_batch]
"""
    job.files(4).split(script, output=f"{azure_store.url}/out", process_count_per_node=1, error_threshold=1)
    store = job.plan.store
    for k in range(1, 4):
        with subprocess.Popen([sys.executable, "-c", _QUICK_TO_SHOW, job.plan.run_dir]) as node:
            try:
                wait_for(lambda: 2 in _shown(store, f"0-{k}-"))  # noqa: B023
            finally:
                node.kill()
    result = Node(job.plan.run_dir, 0).run()
    assert result.progress.mini_batches_failed == 1
    assert job.reduce().counts.failed == 1
    failed = json.loads(azure_store.read("out/failed_items.jsonl"))
    assert failed["error"]["type"] == "NodeLost"


def test_what_kills_a_machine_soon_is_known_from_the_second_time_on(
    job: Job, azure_store: storage_servers.ObjectStore
) -> None:
    script = """
import signal, time
def run(mini_batch):
    called(mini_batch)
    time.sleep(3)
    if mini_batch[0].endswith("2"):
        os.kill(os.getppid(), signal.SIGKILL)
    return [os.path.basename(path) for path in mini_batch]
"""
    job.files(6).split(script, output=f"{azure_store.url}/out", process_count_per_node=3, error_threshold=1)
    start = "import sys; from airflow_parallelrun.engine.node import Node; Node(sys.argv[1], 0).run()"
    command = [sys.executable, "-c", start, job.plan.run_dir]
    ends = [subprocess.run(command, timeout=60).returncode for _ in range(4)]
    assert ends == [-signal.SIGKILL] * 3 + [0]
    assert job.reduce().counts.failed == 1
    assert rows(azure_store) == job.names(6, without={2})


def _shown(store: Store, prefix: str) -> set[int]:
    pages = [store.read(f"pages/{name}") for name in store.names("pages") if name.startswith(prefix)]
    return {page.last_state(content).ordinal for content in pages}


_QUICK_TO_SHOW = """
import sys
from airflow_parallelrun.engine import long_runs, session
from airflow_parallelrun.engine.node import Node
long_runs.LONG_S = session.OBJECTS_INTERVAL_S = 0.2
Node(sys.argv[1], 0).run()
"""


# What belongs to somebody else.


def test_an_output_folder_has_one_owner(
    job: Job, echo: str, object_store: storage_servers.ObjectStore
) -> None:
    output = f"{object_store.url}/out"
    job.files(2).split(echo, output=output).run()
    with pytest.raises(OutputOwnedError, match="test/1"):
        job.split(echo, output=output, owner="test/2")
    job.split(echo, output=output)  # a split that is tried again
    assert "out/job_result.json" not in object_store.paths("out")


def test_a_file_of_somebody_else_is_not_replaced(
    job: Job, echo: str, object_store: storage_servers.ObjectStore
) -> None:
    object_store.write("out/parallel_run_step.txt", b"precious")
    with pytest.raises(OutputExistsError, match=r"out/parallel_run_step\.txt"):
        job.files(2).split(echo, output=f"{object_store.url}/out")
    job.split(echo, output=f"{object_store.url}/other").node()
    object_store.write("other/parallel_run_step.txt", b"precious")
    with pytest.raises(OutputExistsError):
        job.reduce()
    assert object_store.read("other/parallel_run_step.txt") == b"precious"


# Outputs of the script.


def test_files_that_the_script_writes_are_uploaded_before_their_mini_batch_counts(
    job: Job, object_store: storage_servers.ObjectStore
) -> None:
    script = """
def run(mini_batch):
    for path in mini_batch:
        folder = os.path.join(os.environ["AZUREML_BI_OUTPUT_PATH"], "below")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, os.path.basename(path) + ".out"), "w") as file:
            file.write("of " + os.path.basename(path))
    return mini_batch
"""
    job.files(5).split(script, output=f"{object_store.url}/out", output_action="summary_only")
    job.run()
    assert [object_store.read(f"out/below/{name}.out") for name in job.names(5)] == [
        f"of {name}".encode() for name in job.names(5)
    ]


# Large outputs.


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_writer, "PART_BYTES", 5 << 20)


BIG_ROWS = """
def run(mini_batch):
    return [os.path.basename(path) + "x" * {size} for path in mini_batch]
"""


@pytest.mark.parametrize("order", ["input", "any"])
def test_a_large_output_is_put_together_in_parts(
    order: str, job: Job, object_store: storage_servers.ObjectStore, small_parts: None
) -> None:
    script = BIG_ROWS.format(size=(1 << 20) - 6)
    config = {"append_row_order": order, "node_count": 2, "process_count_per_node": 1}
    job.files(24).split(script, output=f"{object_store.url}/out", **config)
    first, second = (threading.Thread(target=job.node, args=(index,)) for index in range(2))
    first.start()
    second.start()
    first.join()
    second.join()
    job.reduce()
    found = rows(object_store)
    assert {len(row) for row in found} == {(1 << 20) - 1}
    names = [row[:5] for row in found]
    assert sorted(names) == job.names(24)
    if order == "input":
        assert names == job.names(24)


def test_rows_that_stand_together_are_copied_by_the_store(
    job: Job, copying_store: storage_servers.ObjectStore, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is: a commit when the first claim is used up, and one at the end.
    monkeypatch.setattr(committed_objects, "SHORTEST_INTERVAL_S", 600.0)
    monkeypatch.setattr(committed_objects, "LONGEST_INTERVAL_S", 600.0)
    script = BIG_ROWS.format(size=(1 << 20) - 6)
    job.files(13).split(script, output=f"{copying_store.url}/out", process_count_per_node=1)
    job.node()
    streamed = _count_streamed(monkeypatch)
    job.reduce()
    assert [row[:5] for row in rows(copying_store)] == job.names(13)
    assert sum(streamed) <= 5 << 20  # of 13 MiB


def test_what_stands_between_copies_is_made_long_enough_for_a_part(
    copying_store: storage_servers.ObjectStore, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(f"{copying_store.url}/run")
    assert isinstance(store, ObjectStore)
    rows_of = {
        "segments/a": b"a" * (6 << 20),
        "segments/b": b"b" * (1 << 20),
        "segments/c": b"c" * (13 << 20),
    }
    for name, data in rows_of.items():
        store.put(name, data)
    streamed = _count_streamed(monkeypatch)
    store_of, place = objects_at(f"{copying_store.url}/rows.txt")
    writer = object_writer.ObjectWriter(store_of, "rows.txt", place.path, {})
    with assembly.ObjectSegments(store) as segments:
        assembly._upload(
            writer, store, segments, [Span(name, 0, len(data)) for name, data in rows_of.items()]
        )
    writer.finish(None)
    writer.close_threads()
    assert copying_store.read("rows.txt") == b"".join(rows_of.values())
    # S3 takes no part of less than 5 MiB; Azure takes any.
    assert sum(streamed) == (5 << 20 if copying_store.scheme == "s3" else 1 << 20)


def _count_streamed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the length of each piece of rows that is read here."""
    streamed: list[int] = []
    stream = assembly.ObjectSegments.stream

    def counted(self: Any, spans: Any) -> Any:
        for piece in stream(self, spans):
            streamed.append(len(piece))
            yield piece

    monkeypatch.setattr(assembly.ObjectSegments, "stream", counted)
    return streamed


def test_parquet_is_put_together(job: Job, object_store: storage_servers.ObjectStore) -> None:
    import io

    import pandas

    script = """
import pandas
def run(mini_batch):
    return pandas.DataFrame({"name": [os.path.basename(path) for path in mini_batch]})
"""
    names = {"append_row_format": "parquet", "append_row_file_name": "rows.parquet"}
    job.files(6).split(script, output=f"{object_store.url}/out", mini_batch_size=2, **names).run()
    frame = pandas.read_parquet(io.BytesIO(object_store.read("out/rows.parquet")))
    assert frame["name"].tolist() == job.names(6)


def test_an_upload_that_was_cut_short_is_removed(
    job: Job, echo: str, s3_store: storage_servers.ObjectStore, small_parts: None
) -> None:
    script = BIG_ROWS.format(size=(1 << 20) - 6)
    job.files(12).split(script, output=f"{s3_store.url}/out").node()
    target = f"{s3_store.container}/out/parallel_run_step.txt"
    bucket, key = target.split("/", 1)
    begun = s3_store.fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    part = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"], "PartNumber": 1, "Body": b"x"}
    s3_store.fs.call_s3("upload_part", **part)
    job.reduce()
    assert not s3_store.fs.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads")
    assert len(rows(s3_store)) == 12


def test_a_store_is_reached_by_name_only(
    job: Job, echo: str, object_store: storage_servers.ObjectStore
) -> None:
    job.files(2).split(echo, output=f"{object_store.url}/out").run()
    for path in object_store.paths("out"):
        assert object_store.secret.encode() not in object_store.read(path)
    assert store_at(job.plan.run_dir).exists("plan.json")
