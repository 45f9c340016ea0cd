# SPDX-License-Identifier: Apache-2.0
"""append_row_format in whole runs: what is written is read back, with its types."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from workbench import OneRun

from airflow_parallelrun.config import Environment
from airflow_parallelrun.engine import names, parquet
from airflow_parallelrun.engine.redrive import RedriveRequest, redrive
from airflow_parallelrun.engine.split import split
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EntryScriptContractError,
    NothingToAppendError,
    StorageError,
)
from airflow_parallelrun.models import ModelRegistry
from airflow_parallelrun.worker.output import Origin, RowFormatter

FORMATS = ("csv", "jsonl", "parquet")

FRAMES = """
    import pandas as pd
    def run(mini_batch):
        called(mini_batch)
        names = [os.path.basename(path) for path in mini_batch]
        numbers = [int(name) for name in names]
        return pd.DataFrame({
            "name": names,
            "number": pd.array([None if n % 5 == 0 else n for n in numbers], dtype="Int64"),
            "score": [n / 8 if n % 3 else None for n in numbers],
            "even": [n % 2 == 0 for n in numbers],
            "at": pd.to_datetime("2026-11-25") + pd.to_timedelta(numbers, unit="h"),
        })
"""
DICTS = """
    def run(mini_batch):
        called(mini_batch)
        return [{"name": os.path.basename(path), "text": 'say "ä", b'} for path in mini_batch]
"""


def expected(count):
    """What FRAMES returns for so many files."""
    numbers = range(count)
    return {
        "name": [f"{n:05d}" for n in numbers],
        "number": [n if n % 5 else None for n in numbers],
        "score": [n / 8 if n % 3 else None for n in numbers],
        "even": [n % 2 == 0 for n in numbers],
        "at": [pd.Timestamp("2026-11-25") + pd.Timedelta(hours=n) for n in numbers],
    }


def output(job, row_format):
    return job.output / f"parallel_run_step.{row_format}"


def read(job, row_format):
    """The output's rows as a table, read as docs/outputs.md says."""
    path = output(job, row_format)
    if row_format == "parquet":
        return pq.read_table(path)
    if row_format == "jsonl":
        return pa.Table.from_pylist([json.loads(line) for line in path.read_text().splitlines()])
    frame = pd.read_csv(
        path, parse_dates=["at"], date_format="ISO8601", dtype={"name": str, "number": "Int64"}
    )
    return pa.Table.from_pandas(frame)


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("nodes", [1, 2])
def test_frames_are_read_back_as_they_were(job, row_format, nodes):
    given = {"append_row_format": row_format, "mini_batch_size": 3, "node_count": nodes}
    result = job.files(40).split(FRAMES, **given).run()
    assert result.output_file == str(output(job, row_format))
    assert (result.verdict, result.counts.rows) == ("succeeded", 40)
    table = read(job, row_format)
    assert table.column_names == [*expected(0)]
    rows = table.to_pydict()
    if row_format == "jsonl":
        rows["at"] = [pd.Timestamp(text) for text in rows["at"]]
    assert rows == expected(40)
    if row_format == "parquet":
        types = [str(field.type) for field in table.schema]
        assert types[1:4] == ["int64", "double", "bool"]
        assert types[4].startswith("timestamp")
    before = output(job, row_format).read_bytes()
    job.reduce()
    assert output(job, row_format).read_bytes() == before


@pytest.mark.parametrize("row_format", FORMATS)
def test_dicts_are_rows_with_names(job, row_format):
    job.files(3).split(DICTS, append_row_format=row_format, append_row_file_name="rows.txt").run()
    path = job.output / "rows.txt"
    rows = [{"name": name, "text": 'say "ä", b'} for name in job.names(3)]
    if row_format == "csv":
        assert path.read_text() == "name,text\n" + "".join(
            f'{name},"say ""ä"", b"\n' for name in job.names(3)
        )
        assert pd.read_csv(path, dtype=str).to_dict("records") == rows
    elif row_format == "jsonl":
        assert path.read_text().startswith('{"name":"00000","text":"say \\"ä\\", b"}\n')
        assert [json.loads(line) for line in path.read_text().splitlines()] == rows
        assert pd.read_json(path, lines=True, dtype=str).to_dict("records") == rows
    else:
        assert pq.read_table(path).to_pylist() == rows
        assert pd.read_parquet(path).to_dict("records") == rows


@pytest.mark.parametrize("row_format", FORMATS)
def test_rows_as_they_lie_are_the_same_ones(job, row_format):
    given = {"append_row_format": row_format, "append_row_order": "any", "node_count": 2}
    job.files(30).split(FRAMES, **given).run()
    assert sorted(read(job, row_format).column("name").to_pylist()) == job.names(30)


@pytest.mark.parametrize("row_format", FORMATS)
def test_provenance_columns_stand_behind_the_rows_own(job, row_format, tmp_path):
    (tmp_path / "weights").write_text("w")
    for _ in range(2):
        ModelRegistry(str(tmp_path / "models")).register(str(tmp_path / "weights"), "net")
    script = """
        from azureml.core import Model
        def init():
            Model.get_model_path("net")
            Model.get_model_path("net", version=1)
            Model.get_model_path("net")
        def run(mini_batch): return [os.path.basename(path) for path in mini_batch]
    """
    columns = ["mini_batch", "source", "row", "try", "model_version"]
    job.files(4).split(script, append_row_format=row_format, mini_batch_size=2, provenance_columns=columns)
    job.plan = split(replace(job.request(**job_config(job)), models_root=str(tmp_path / "models")))
    job.run()
    path = output(job, row_format)
    if row_format == "csv":
        rows = pd.read_csv(path, dtype={"result": str}).to_dict("records")
    elif row_format == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    assert rows == [
        {
            "result": name,
            "mini_batch": number // 2,
            "source": str(job.folder / "input" / name),
            "row": number % 2,
            "try": 1,
            "model_version": "net:2,net:1",
        }
        for number, name in enumerate(job.names(4))
    ]


def job_config(job):
    """What is not the default in the plan's configuration, to split once more."""
    config = job.plan.config
    return {
        "append_row_format": config.append_row_format,
        "mini_batch_size": config.mini_batch_size,
        "provenance_columns": list(config.provenance_columns),
    }


def test_a_model_that_is_not_asked_for_has_no_version(job, echo):
    job.files(1).split(echo, provenance_columns=["model_version"]).run()
    assert job.rows() == ["00000 "]


@pytest.mark.parametrize("row_format", FORMATS)
def test_without_a_row_there_is_no_file(job, row_format):
    script = "import pandas as pd\ndef run(mini_batch): return pd.DataFrame({'a': []})\n"
    job.files(2).split(script, append_row_format=row_format, error_threshold=-1)
    with pytest.raises(NothingToAppendError):
        job.run()
    assert not output(job, row_format).exists()


def test_in_summary_only_the_format_has_no_effect(job):
    script = "def run(mini_batch): return [object() for _ in mini_batch]\n"
    given = {"output_action": "summary_only", "append_row_format": "parquet"}
    result = job.files(2).split(script, **given, append_row_dataframe_header=True).run()
    assert (result.counts.rows, result.output_file) == (2, None)


# What is the same for all mini-batches.

LATE = """
    import time
    def run(mini_batch):
        number = int(os.path.basename(mini_batch[0]))
        if number >= 4:
            time.sleep(0.3)
        return [{"name": number, "error": None if number < 4 else "E", "tags": [] if number < 5 else ["t"]}]
"""


def test_a_column_gets_its_type_when_it_gets_a_value(job):
    job.files(6).split(LATE, append_row_format="parquet").run()
    table = pq.read_table(output(job, "parquet"))
    assert [str(field.type) for field in table.schema] == ["int64", "string", "list<element: string>"]
    assert table.to_pydict() == {
        "name": [*range(6)],
        "error": [None] * 4 + ["E"] * 2,
        "tags": [[]] * 5 + [["t"]],
    }
    assert job.plan.store.exists(names.header(1))


def test_a_column_without_any_value_has_no_type(job):
    script = "def run(mini_batch): return [{'a': 1, 'b': None} for _ in mini_batch]\n"
    job.files(2).split(script, append_row_format="parquet").run()
    table = pq.read_table(output(job, "parquet"))
    assert table.to_pydict() == {"a": [1, 1], "b": [None, None]}
    assert not job.plan.store.exists(names.header(1))


ODD = """
    import time
    def run(mini_batch):
        number = int(os.path.basename(mini_batch[0]))
        if number == 3:
            time.sleep(0.3)
        return [{"name": number, "score": "high" if number == 3 else 0.5}]
"""


def test_a_value_that_does_not_fit_is_a_failed_mini_batch(job):
    given = {"append_row_format": "parquet", "error_threshold": 1, "run_max_try": 2}
    job.files(6).split(ODD, **given).run()
    assert pq.read_table(output(job, "parquet")).column("name").to_pylist() == [0, 1, 2, 4, 5]
    (line,) = job.failed_items()
    assert (line["mini_batch"], line["tries"], line["error"]["type"]) == (3, 2, "ReturnValueError")
    assert "returned 'high' in the column 'score', as string" in line["error"]["message"]
    assert "that column is double" in line["error"]["message"]


def test_nodes_at_once_have_one_schema(job):
    script = """
        import time
        def run(mini_batch):
            number = int(os.path.basename(mini_batch[0]))
            return [{"n": number if number % 2 else float(number), "s": None if number < 20 else "x"}]
    """
    job.files(60).split(script, append_row_format="parquet", node_count=2)
    with ThreadPoolExecutor(2) as pool:
        [*pool.map(job.node, range(2))]
    job.reduce()
    table = pq.read_table(output(job, "parquet"))
    assert table.column("n").to_pylist() == [*range(60)]
    assert table.column("s").to_pylist() == [None] * 20 + ["x"] * 40


FLAWED = """
    import pandas as pd
    def run(mini_batch):
        called(mini_batch)
        names = [os.path.basename(path) for path in mini_batch]
        if any(name.endswith("3") for name in names) and not os.path.exists({mark!r}):
            raise ValueError("poison")
        return pd.DataFrame({{"name": names, "n": [int(name) for name in names]}})
"""


@pytest.mark.parametrize("row_format", FORMATS)
def test_bisection_and_redrive_add_to_the_same_rows(job, row_format):
    script = FLAWED.format(mark=str(job.folder / "mark"))
    given = {"mini_batch_size": 10, "run_max_try": 1, "bisect_failures": True, "error_threshold": -1}
    result = job.files(30).split(script, append_row_format=row_format, **given).run()
    assert (result.counts.short, result.counts.rows) == (3, 27)

    def rows():
        path = output(job, row_format)
        if row_format == "csv":
            return pd.read_csv(path, dtype={"name": str}).to_dict("list")
        if row_format == "jsonl":
            return pd.read_json(path, lines=True, dtype={"name": str}).to_dict("list")
        return pq.read_table(path).to_pydict()

    healthy = [n for n in range(30) if n % 10 != 3]
    assert rows() == {"name": [f"{n:05d}" for n in healthy], "n": healthy}
    before = job.plan.store.read(names.HEADER) if row_format != "jsonl" else None
    (job.folder / "mark").touch()
    asked = redrive(job.plan.run_dir, RedriveRequest("test/2", job.plan.config, (), None))
    for index in range(asked.plan.node_count):
        job.node(index)
    assert job.reduce().verdict == "succeeded"
    assert rows() == {"name": job.names(30), "n": [*range(30)]}
    if before is not None:
        assert job.plan.store.read(names.HEADER) == before


# The Parquet file.


def test_small_mini_batches_share_a_row_group_and_large_ones_are_cut(job, monkeypatch):
    job.files(40).split(FRAMES, append_row_format="parquet").run()
    assert pq.ParquetFile(output(job, "parquet")).num_row_groups == 1
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 16)
    job.reduce()
    groups = pq.ParquetFile(output(job, "parquet")).metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [16, 16, 8]
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 1)
    job.reduce()
    assert pq.ParquetFile(output(job, "parquet")).num_row_groups == 40
    assert pq.read_table(output(job, "parquet")).column("name").to_pylist() == job.names(40)


@pytest.fixture
def streams(tmp_path):
    run = OneRun()
    formatter = RowFormatter(str(tmp_path), True, agree=run.agree, row_format="parquet")
    origin = Origin(0, ["x"], None, 1)
    return run, b"".join(formatter.rows([{"n": n, "b": b"x" * n}], origin) for n in range(50))


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_streams_may_be_cut_anywhere(streams, size):
    run, rows = streams
    file = io.BytesIO()
    parquet.write(file, run, (rows[at : at + size] for at in range(0, len(rows), size)))
    assert pq.read_table(io.BytesIO(file.getvalue())).column("n").to_pylist() == [*range(50)]


def test_what_is_no_stream_is_named(streams):
    run, rows = streams
    for damaged in (b"\xff" + rows, rows + b"\x10\0\0\0 not Arrow"):
        with pytest.raises(StorageError, match=r"segments: cannot be read as Arrow streams"):
            parquet.write(io.BytesIO(), run, iter([damaged]))


def test_a_segment_that_has_lost_rows_is_named_and_nothing_is_published(job, monkeypatch):
    job.files(4).split(FRAMES, append_row_format="parquet")
    job.node()
    read_span = parquet.write

    def cut(file, store, pieces):
        for name in store.names(names.SEGMENTS):
            with open(store.path(f"{names.SEGMENTS}/{name}"), "r+b") as segment:
                segment.truncate(10)
        read_span(file, store, pieces)

    monkeypatch.setattr(parquet, "write", cut)
    with pytest.raises(StorageError, match="has lost rows since they were checked"):
        job.reduce()
    assert not output(job, "parquet").exists()


# What cannot be.


def test_the_header_of_text_is_refused_in_other_formats(job):
    with pytest.raises(ConfigurationError, match=r"append_row_dataframe_header is for .*'text'.*'csv'"):
        job.files(1).split(FRAMES, append_row_format="csv", append_row_dataframe_header=True)
    with pytest.raises(ConfigurationError, match="append_row_dataframe_header is for"):
        job.split(FRAMES, append_row_format="jsonl", arguments=["--append_row_dataframe_header", "True"])


def test_settings_of_text_fail_the_node_at_once(job):
    job.files(1).split(DICTS)
    document = {"append_row": {"pandas.DataFrame.to_csv": {"sep": ","}}}
    (job.folder / "source" / "parallel_run_step.settings.json").write_text(json.dumps(document))
    job.split(DICTS, append_row_format="csv")
    with pytest.raises(
        EntryScriptContractError, match="sets sep of to_csv, which is for append_row_format text"
    ):
        job.node()


def test_an_interpreter_without_libraries_writes_lists_as_csv_and_json_and_no_parquet(job, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    given = {"environment": Environment(python=str(bare / "bin" / "python"))}
    job.files(2)
    for row_format in ("csv", "jsonl"):
        job.split(
            DICTS, append_row_format=row_format, append_row_file_name=f"rows.{row_format}", **given
        ).run()
    assert (job.output / "rows.csv").read_text().startswith("name,text\n")
    job.split(DICTS, append_row_format="parquet", **given)
    with pytest.raises(
        EntryScriptContractError, match=r"bare/bin/python cannot import pyarrow.*Install pyarrow"
    ):
        job.node()


TEXT_RUN = """
import sys
from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.engine.node import Node
from airflow_parallelrun.engine.reduce import reduce
from airflow_parallelrun.engine.split import RunRequest, split
config = ParallelRunConfig(
    Environment(), "score.py", 0, "append_row", ComputeTarget(), 1, 1, 1, "source", start_method="exec"
)
inputs = (FileDataset.from_files("input").as_mount(),)
plan = split(RunRequest(config, inputs, "output", "test/1", base_directory=sys.argv[1]))
Node(plan.run_dir, 0).run()
reduce(plan.run_dir)
sys.exit(any(name in sys.modules for name in ("pyarrow", "pandas", "numpy")))
"""


def test_no_part_of_a_run_in_text_imports_a_table_library(job):
    script = """
        import sys
        def run(mini_batch):
            return ["yes" if {"numpy", "pandas", "pyarrow"} & set(sys.modules) else "no"]
    """
    job.files(1).split(script, output="elsewhere")
    ended = subprocess.run([sys.executable, "-c", TEXT_RUN, str(job.folder)], check=False)
    assert ended.returncode == 0
    assert job.rows() == ["no"]


def test_arrays_of_all_kinds_in_one_run(job):
    script = """
        import numpy, pandas, pyarrow
        def run(mini_batch):
            number = int(os.path.basename(mini_batch[0]))
            kinds = [
                numpy.array([number]),
                pandas.Series([number], name="result"),
                pyarrow.table({"result": [number]}),
                pandas.DataFrame({"result": [number]}),
                (number,),
            ]
            return kinds[number]
    """
    for row_format, name in [("text", "txt"), *((each, each) for each in FORMATS)]:
        job.files(5).split(script, append_row_format=row_format).run()
        if row_format == "parquet":
            assert pq.read_table(output(job, name)).column("result").to_pylist() == [*range(5)]
        else:
            lines = output(job, name).read_text().split()
            assert [int(re.sub(r"\D", "", line)) for line in lines[-5:]] == [*range(5)]
