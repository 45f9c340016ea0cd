# SPDX-License-Identifier: Apache-2.0
"""The plan reads back as it was written, and is readable without us."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from workbench import make_config, make_plan

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.items import ItemWriter
from airflow_parallelrun.engine.plan import ItemTable, Plan, read_plan
from airflow_parallelrun.engine.split import split
from airflow_parallelrun.exceptions import StorageError


def test_round_trip(tmp_path):
    config = make_config(allowed_failed_percent=2.5, environment_variables={"A": "é"}, init_timeout=7)
    plan = make_plan(
        tmp_path, config=config, arguments=["--x", "ü\udcff"], output="/out", chunk_starts=[0, 3]
    )
    plan.store.put(names.PLAN, plan.to_json())
    assert read_plan(str(tmp_path)) == plan


def test_a_run_directory_may_be_moved(tmp_path):
    data = make_plan("/somewhere/else").to_json()
    assert Plan.from_json(data, str(tmp_path)).run_dir == str(tmp_path)


def test_a_newer_format_is_refused(tmp_path):
    values = json.loads(make_plan(tmp_path).to_json()) | {"format_version": 2, "new": "field"}
    with pytest.raises(StorageError, match="has format_version 2, this version reads 1"):
        Plan.from_json(json.dumps(values).encode(), str(tmp_path))


def test_a_missing_plan_says_that_split_did_not_finish(tmp_path):
    with pytest.raises(StorageError, match="split did not finish"):
        read_plan(str(tmp_path))


def test_a_plan_that_is_damaged_is_named(tmp_path):
    (tmp_path / "plan.json").write_bytes(b'{"format_version": 1, "pl')
    with pytest.raises(StorageError, match=r"plan\.json: is damaged: Unterminated string"):
        read_plan(str(tmp_path))
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StorageError, match=r"plan\.json: is damaged"):
        read_plan(str(tmp_path))


def test_chunks_by_ordinal(tmp_path):
    plan = make_plan(tmp_path, mini_batches=10, chunk_starts=[0, 1, 4])
    assert [plan.chunk_size(chunk) for chunk in range(3)] == [1, 3, 6]
    assert [plan.chunk_of(ordinal) for ordinal in range(10)] == [0, 1, 1, 1, 2, 2, 2, 2, 2, 2]


def test_where_logs_go(tmp_path):
    assert make_plan(tmp_path, output="/out").logs == "/out/logs"
    assert make_plan(tmp_path).logs == f"{tmp_path}/logs"
    assert make_plan(tmp_path, output="/out").node_log("0-1") == "/out/logs/sys/node/0-1.log.txt"


def test_items_are_a_parquet_file_with_one_row_group_per_chunk(job, echo):
    plan = job.files(200).split(echo, mini_batch_size=3, process_count_per_node=1).plan
    path = Path(plan.run_dir) / names.MINI_BATCHES
    frame = pd.read_parquet(path)
    assert list(frame.columns) == ["ordinal", "input", "path", "size", "mtime_ns", "etag"]
    assert [Path(each).name for each in frame["path"]] == job.names(200)
    assert list(frame["ordinal"]) == [number // 3 for number in range(200)]
    stats = [Path(each).stat() for each in frame["path"]]
    assert list(frame["size"]) == [stat.st_size for stat in stats]
    assert list(frame["mtime_ns"]) == [stat.st_mtime_ns for stat in stats]
    with pq.ParquetFile(path) as file:
        assert file.num_row_groups == len(plan.chunk_starts) > 1
        assert file.schema_arrow.metadata[b"format_version"] == b"1"
        for chunk, start in enumerate(plan.chunk_starts):
            ordinals = file.read_row_group(chunk)["ordinal"].to_pylist()
            assert (ordinals[0], ordinals[-1]) == (start, start + plan.chunk_size(chunk) - 1)


def test_chunks_are_read_as_mini_batches(job, echo):
    plan = job.files(100).split(echo, mini_batch_size=7, process_count_per_node=1).plan
    table = ItemTable(plan)
    batches = [batch for chunk in range(len(plan.chunk_starts)) for batch in table.read_chunk(chunk)]
    table.close()
    assert [batch.ordinal for batch in batches] == list(range(15))
    assert [len(batch.items) for batch in batches] == [7] * 14 + [2]
    path, size, mtime_ns = batches[0].items[0]
    assert (path, size) == (str(job.folder / "input" / "00000"), 1)
    assert mtime_ns == Path(path).stat().st_mtime_ns


def test_plan_json_is_written_last_and_readable(job, echo):
    plan = job.files(3).split(echo, mini_batch_size=2, arguments=("--model", "m")).plan
    values = json.loads((Path(plan.run_dir) / names.PLAN).read_text())
    assert (values["mini_batches"], values["items"], values["arguments"]) == (2, 3, ["--model", "m"])
    assert values["config"]["mini_batch_size"] == 2
    assert read_plan(plan.run_dir) == plan


def test_a_split_that_fails_half_way_leaves_no_plan(job, echo, monkeypatch):
    def full(*_):
        raise StorageError("x", "No space left on device")

    monkeypatch.setattr(ItemWriter, "parquet", full)
    with pytest.raises(StorageError):
        job.files(1).split(echo)
    assert not list(job.output.glob(f".parallelrun/*/{names.PLAN}"))
    monkeypatch.undo()
    assert split(job.request()).mini_batches == 1
