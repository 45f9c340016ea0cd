# SPDX-License-Identifier: Apache-2.0
"""Runs over tables: rows are accounted for, whatever becomes of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from airflow_parallelrun.datasets import TabularDataset
from airflow_parallelrun.exceptions import ConfigurationError, InputUnreadableError, UnknownNameError

ROWS = 1000
ECHO = """
def run(frame):
    return frame
"""
# Dies, in the phase that it is told, the first time or always.
DIES = """
import os, signal
FLAG = {flag!r}
def die():
    if {always} or not os.path.exists(FLAG):
        open(FLAG, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
def init():
    import pandas
    read = pandas.read_csv
    def dying(block, **arguments):
        if {phase!r} == "before": die()
        frame = read(block, **arguments)
        if {phase!r} == "during": die()
        return frame
    pandas.read_csv = dying
def run(frame):
    if {phase!r} == "after": die()
    return frame
"""


def table(job, text=None, name="t.csv"):
    text = text or "n,t\n" + "".join(f"{n},row {n}\n" for n in range(ROWS))
    (job.folder / name).write_text(text)
    return (TabularDataset.from_delimited_files(name).as_named_input("rows"),)


def run(job, inputs, script=ECHO, **config):
    config.setdefault("mini_batch_size", "2KB")
    job.split(script, inputs=inputs, **config)
    return job.run()


@pytest.mark.parametrize("nodes", [1, 3])
def test_every_row_comes_out_once_and_in_order(job, nodes):
    result = run(job, table(job), node_count=nodes)
    assert job.plan.mini_batches == 6
    assert job.plan.items is None
    assert job.rows() == [f'{n} "row {n}"' for n in range(ROWS)]
    counts = result.counts
    assert (counts.items, counts.items_succeeded, counts.rows) == (ROWS, ROWS, ROWS)
    assert not counts.items_at_least
    assert result.verdict == "succeeded"


def test_json_lines_and_parquet(job):
    frame = pd.DataFrame({"n": range(ROWS), "t": [f"row {n}" for n in range(ROWS)]})
    frame.to_json(job.folder / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(job.folder / "t.parquet")
    inputs = (
        TabularDataset.from_json_lines_files("t.jsonl").as_direct(),
        TabularDataset.from_parquet_files("t.parquet").as_direct(),
    )
    result = run(job, inputs, mini_batch_size="300rows")
    assert job.plan.mini_batches == 8
    assert job.rows() == 2 * [f'{n} "row {n}"' for n in range(ROWS)]
    assert result.counts.items == 2 * ROWS


def test_types_are_the_same_in_every_mini_batch(job):
    text = "n,x,t\n" + "".join(f"{n},{n}.5,{'' if n % 3 else 't'}\n" for n in range(300))
    script = "def run(frame): return [str(list(map(str, frame.dtypes)))] * len(frame)\n"
    run(job, table(job, text), script, mini_batch_size=100)
    assert len(set(job.rows())) == 1


def test_rows_that_do_not_fit_are_failed_items_and_the_others_go_on(job):
    # The sample of the types is all of it, so they are given.
    lines = [f"{n},row {n}" for n in range(ROWS)]
    lines[5], lines[700] = "five,row 5", "700,row,700"
    (job.folder / "t.csv").write_text("n,t\n" + "\n".join(lines) + "\n")
    dataset = TabularDataset.from_delimited_files("t.csv", set_column_types={"n": "int64"})
    result = run(job, (dataset.as_direct(),), error_threshold=2)
    assert len(job.rows()) == ROWS - 2
    counts = result.counts
    assert (counts.items, counts.items_succeeded, counts.items_failed, counts.short) == (ROWS, ROWS - 2, 2, 2)
    path = job.folder / "t.csv"
    told = [(item["item"], item["error"]["type"], item["error"]["message"]) for item in job.failed_items()]
    assert told == [
        (f"{path}, line 7", "RowError", "column 'n': 'five' is not int64"),
        (f"{path}, line 702", "RowError", "3 fields for 2 columns"),
    ]
    logs = "".join(path.read_text() for path in Path(job.output, "logs/user/error").rglob("*.txt"))
    assert "line 7, column 'n': 'five' is not int64" in logs


def test_a_row_that_is_too_long_beside_one_that_is_too_short(job):
    # Together they have as many separators as two that are right; and what is too much looks like nothing.
    inputs = table(job, "n,t\n1,a\n2,b,NA\n3\n4,d\n")
    result = run(job, inputs, error_threshold=1)
    assert (result.counts.items, result.counts.items_failed) == (4, 1)
    assert job.rows() == ["1 a", "3 ", "4 d"]
    (failed,) = job.failed_items()
    assert (failed["item"].rpartition(", ")[2], failed["error"]["message"]) == (
        "line 3",
        "3 fields for 2 columns",
    )


def test_a_mini_batch_of_bad_rows_alone(job):
    (job.folder / "t.csv").write_text("n\n" + "x\n" * 10)
    dataset = TabularDataset.from_delimited_files("t.csv", set_column_types={"n": "int64"})
    result = run(job, (dataset.as_direct(),), error_threshold=-1, output_action="summary_only")
    assert (result.counts.items, result.counts.items_failed, result.counts.failed) == (10, 10, 1)
    assert [item["item"].rpartition(" ")[2] for item in job.failed_items()] == [str(n) for n in range(2, 12)]


@pytest.mark.parametrize("phase", ["before", "during", "after"])
@pytest.mark.parametrize("always", [False, True])
def test_a_process_killed_around_loading_changes_no_count(job, phase, always):
    script = DIES.format(flag=str(job.folder / "flag"), phase=phase, always=always)
    inputs = table(job, "n,t\n\n" + "".join(f"{n},x\n" for n in range(50)))
    result = run(
        job,
        inputs,
        script,
        mini_batch_size=None,
        process_count_per_node=1,
        run_max_try=2,
        error_threshold=-1,
        output_action="summary_only",
    )
    counts = result.counts
    failed = 50 if always else 0
    assert (counts.items, counts.items_failed, counts.items_at_least) == (50, failed, False)
    if always:
        (line,) = job.failed_items()
        assert (line["items"], line["missing"]) == ([f"{job.folder}/t.csv, bytes 0 to 245"], 50)


def test_a_changed_file_is_counted_as_at_least(job):
    inputs = table(job)
    job.split(ECHO, inputs=inputs, mini_batch_size="2KB", error_threshold=-1, output_action="summary_only")
    os.utime(job.folder / "t.csv", ns=(0, 5))
    counts = job.run().counts
    assert (counts.failed, counts.items_failed, counts.items, counts.items_at_least) == (6, 6, 6, True)
    assert {item["missing"] for item in job.failed_items()} == {1}
    assert job.result()["counts"]["items_at_least"]


def test_short_returns_name_the_mini_batch(job):
    result = run(job, table(job), "def run(frame): return frame.iloc[1:]\n", error_threshold=-1)
    assert (result.counts.short, result.counts.items_failed) == (6, 6)
    first = job.failed_items()[0]
    assert (first["mini_batch"], first["missing"]) == (0, 1)
    assert first["error"]["message"].startswith("run() returned ")


def test_bisection_finds_the_row(job):
    script = """
        def run(frame):
            if (frame["n"] == 123).any(): raise ValueError("unlucky")
            return frame
    """
    result = run(job, table(job), script, bisect_failures=True, error_threshold=1, run_max_try=1)
    assert (result.counts.items, result.counts.items_failed) == (ROWS, 1)
    assert job.rows() == [f'{n} "row {n}"' for n in range(ROWS) if n != 123]


def test_bisection_beside_rows_that_do_not_fit(job):
    lines = [f"{n},row {n}" for n in range(20)]
    lines[3] = "three,row 3"
    (job.folder / "t.csv").write_text("n,t\n" + "\n".join(lines) + "\n")
    script = """
        def run(frame):
            if (frame["n"] == 5).any(): raise ValueError("unlucky")
            return frame
    """
    dataset = TabularDataset.from_delimited_files("t.csv", set_column_types={"n": "int64"})
    result = run(
        job, (dataset.as_direct(),), script, mini_batch_size=None, bisect_failures=True, error_threshold=2
    )
    assert (result.counts.items, result.counts.items_failed) == (20, 2)
    assert [row.split()[0] for row in job.rows()] == [str(n) for n in range(20) if n not in (3, 5)]


def test_a_mini_batch_without_a_row_is_not_run(job):
    header = "a_column_with_a_long_name,another_column_with_a_long_name\n"
    result = run(job, table(job, header + "1,2\n3,4\n"), mini_batch_size=10)
    assert job.rows() == ["1 2", "3 4"]
    assert (result.counts.failed, result.counts.short, result.counts.items) == (0, 0, 2)
    assert result.counts.succeeded == job.plan.mini_batches > 2


def test_provenance_and_context(job):
    script = """
        def run(frame, context):
            assert context.dataset.to_pandas_dataframe().equals(frame)
            assert len(context.dataset.to_path()) == 1
            return frame
    """
    run(job, table(job, "n\n1\n2\n"), script, provenance_columns=["mini_batch", "source", "row"])
    assert job.rows() == [f"1 0 {job.folder}/t.csv 0", f"2 0 {job.folder}/t.csv 1"]


def test_one_mini_batch_for_each_key(job):
    for store in (1, 2):
        for part in range(2):
            folder = job.folder / "in" / f"Store={store}"
            folder.mkdir(parents=True, exist_ok=True)
            pd.DataFrame({"income": [store * 10 + part] * 3}).to_parquet(folder / f"{part}.parquet")
    dataset = TabularDataset.from_parquet_files("in", partition_format="Store={Store}/*.parquet")
    script = """
        def run(frame, context):
            assert set(frame["Store"]) == {context.partition_key_value["Store"]}
            frame["total"] = frame["income"].sum()
            return frame
    """
    result = run(job, (dataset.as_direct(),), script, mini_batch_size=None, partition_keys=["Store"])
    assert job.plan.mini_batches == 2
    assert result.counts.items == 12
    assert job.rows() == [
        f"{store}{part} {store} {total}"
        for store, total in ((1, 63), (2, 123))
        for part in (0, 0, 0, 1, 1, 1)
    ]


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (
            TabularDataset.from_parquet_files("t.csv"),
            InputUnreadableError,
            "t.csv' cannot be read: it is no Parquet",
        ),
        (TabularDataset.from_json_lines_files("t.csv"), InputUnreadableError, "no line with a JSON object"),
        (
            TabularDataset.from_delimited_files("t.csv").keep_columns(["m"]),
            UnknownNameError,
            "unknown column 'm'",
        ),
        (
            TabularDataset.from_delimited_files("t.csv", set_column_types={"x": "int64"}),
            UnknownNameError,
            "unknown column 'x'",
        ),
        (TabularDataset.from_delimited_files("t.csv", encoding="utf-32"), InputUnreadableError, "damaged"),
    ],
)
def test_what_split_refuses(job, dataset, error, message):
    table(job)
    with pytest.raises(error, match=message):
        job.split(ECHO, inputs=(dataset.as_direct(),))
    assert not job.output.exists()


def test_parquet_files_of_two_tables(job):
    pd.DataFrame({"a": [1], "b": ["x"]}).to_parquet(job.folder / "1.parquet")
    pd.DataFrame({"a": [1], "c": ["x"]}).to_parquet(job.folder / "2.parquet")
    pd.DataFrame({"a": ["1"], "b": ["x"]}).to_parquet(job.folder / "3.parquet")
    make = TabularDataset.from_parquet_files
    with pytest.raises(ConfigurationError, match=r"do not have the same columns: '[bc]' is in one of them"):
        job.split(ECHO, inputs=(make(["1.parquet", "2.parquet"]).as_direct(),))
    with pytest.raises(
        ConfigurationError, match=r"column 'a' is int64 in .*1.parquet and (large_)?string in"
    ):
        job.split(ECHO, inputs=(make(["1.parquet", "3.parquet"]).as_direct(),))
    inputs = (make(["1.parquet", "3.parquet"], set_column_types={"a": "int64"}).as_direct(),)
    run(job, inputs)
    assert job.rows() == ["1 x", "1 x"]


def test_the_plan_shows_the_columns(job):
    job.split(ECHO, inputs=table(job), mini_batch_size="2KB")
    plan = json.loads(Path(job.plan.run_dir, "plan.json").read_text())
    assert plan["sources"][0]["columns"] == [["n", "int64"], ["t", "string"]]
    assert plan["inputs"][0]["type"] == "tabular"
    lines = Path(job.plan.run_dir, "mini_batches.jsonl").read_text().splitlines()
    assert json.loads(lines[1])[1][4:] == [0, 1964]


def test_an_interpreter_without_pandas(job, tmp_path):
    (job.folder / "t.csv").write_text("a\n1\n")
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "pandas.py").write_text("raise ImportError('No module named pandas', name='pandas')\n")
    inputs = (TabularDataset.from_delimited_files("t.csv").as_direct(),)
    job.split(ECHO, inputs=inputs, mini_batch_size=None, environment_variables={"PYTHONPATH": str(blocked)})
    with pytest.raises(Exception, match="this interpreter has no pandas: install it"):
        job.run()
