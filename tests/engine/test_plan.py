# SPDX-License-Identifier: Apache-2.0
"""The plan reads back as it was written, and is readable without us."""

from __future__ import annotations

import json
import struct
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from workbench import make_config, make_plan

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.items import ItemWriter
from airflow_parallelrun.engine.plan import Plan, PlanItems, read_plan
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


def test_items_are_lines_that_anybody_can_read(job, echo):
    plan = job.files(200).split(echo, mini_batch_size=3, process_count_per_node=1).plan
    header, *lines = map(json.loads, Path(plan.item_files[0]).read_text().splitlines())
    assert header["format_version"] == 1
    assert len(lines) == plan.mini_batches == 67
    assert {line[0] for line in lines} == {0}
    items = [item for line in lines for item in line[1:]]
    assert [Path(path).name for path, _, _ in items] == job.names(200)
    stats = [Path(path).stat() for path, _, _ in items]
    assert [item[1:] for item in items] == [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def test_the_index_has_the_byte_at_which_each_line_begins(job, echo):
    plan = job.files(20).split(echo, mini_batch_size=3).plan
    text, index = (Path(path).read_bytes() for path in plan.item_files)
    starts = struct.unpack(f"<{plan.mini_batches + 1}Q", index)
    assert starts[-1] == len(text)
    lines = [text[start:end] for start, end in pairwise(starts)]
    assert lines == text.splitlines(keepends=True)[1:]


def test_items_are_read_by_ordinal(job, echo):
    plan = job.files(100).split(echo, mini_batch_size=7).plan
    with closing(PlanItems(plan)) as items:
        assert [items.count(ordinal) for ordinal in range(15)] == [7] * 14 + [2]
        names = items.names(3, slice(0, 2))
        assert names == [str(job.folder / "input" / name) for name in ("00021", "00022")]
        assert not items.is_table(3)


@pytest.mark.parametrize("ordinal", [15, 1000])
def test_a_mini_batch_that_is_not_in_the_plan_is_a_storage_error(job, echo, ordinal):
    plan = job.files(100).split(echo, mini_batch_size=7).plan
    with closing(PlanItems(plan)) as items, pytest.raises(StorageError, match=f"has no mini-batch {ordinal}"):
        items.count(ordinal)


def test_items_that_are_gone_are_a_storage_error(job, echo):
    plan = job.files(1).split(echo).plan
    Path(plan.item_files[1]).unlink()
    with closing(PlanItems(plan)) as items, pytest.raises(StorageError, match="No such file"):
        items.names(0, slice(1))


def test_plan_json_is_written_last_and_readable(job, echo):
    plan = job.files(3).split(echo, mini_batch_size=2, arguments=("--model", "m")).plan
    values = json.loads((Path(plan.run_dir) / names.PLAN).read_text())
    assert (values["mini_batches"], values["items"], values["arguments"]) == (2, 3, ["--model", "m"])
    assert values["config"]["mini_batch_size"] == 2
    assert read_plan(plan.run_dir) == plan


def test_a_split_that_fails_half_way_leaves_no_plan(job, echo, monkeypatch):
    def full(*_):
        raise StorageError("x", "No space left on device")

    monkeypatch.setattr(ItemWriter, "write", full)
    with pytest.raises(StorageError):
        job.files(1).split(echo)
    assert not list(job.output.glob(f".parallelrun/*/{names.PLAN}"))
    monkeypatch.undo()
    assert split(job.request()).mini_batches == 1
