# SPDX-License-Identifier: Apache-2.0
"""Broken tables: a clear error, or failed rows that are counted; no other exception, and no lost row."""

from __future__ import annotations

import io
import json
import random
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_parallelrun.config import TableSize
from airflow_parallelrun.datasets import TabularDataset, list_files
from airflow_parallelrun.datasets.table import Table
from airflow_parallelrun.exceptions import ConfigurationError, DatasetError
from airflow_parallelrun.worker.errors import LoadError, RowError
from airflow_parallelrun.worker.loading import Loaded, Loader
from airflow_parallelrun.worker.records import Records

if TYPE_CHECKING:
    from pathlib import Path

FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))

ROWS = 40
TABLE = pd.DataFrame(
    {"n": range(ROWS), "t": [f"row {n}" for n in range(ROWS)], "x": [n / 3 for n in range(ROWS)]}
)
TYPES = {"n": "int64", "t": "string", "x": "float64"}
# What breaks text most: marks, separators, line breaks, no UTF-8, NUL.
SHARDS = [
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\r\n",
    b"\xff",
    b"\0",
    b"{",
    b"}",
    b"[",
    b"\\",
    b"9" * 30,
    b"NaN",
    b"\xef\xbb\xbf",
]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def broken(content: bytes, seed: int, wounds: int) -> bytes:
    """Put shards into bytes, or take some out."""
    chance = random.Random(seed)
    for _ in range(wounds):
        at = chance.randrange(len(content) + 1)
        if chance.random() < 0.7:
            content = content[:at] + chance.choice(SHARDS) + content[at:]
        else:
            content = content[:at] + content[at + chance.randrange(20) :]
    return content


def all_of(dataset: TabularDataset, size: int) -> list[Loaded] | None:
    """Load every mini-batch; None when split refuses the table with an error of ours."""
    try:
        table = Table(dataset, list(list_files(dataset.paths)), TableSize(size, "bytes"))
        parts = list(table.parts())
    except (DatasetError, ConfigurationError) as error:
        assert len(str(error)) > 20
        return None
    loader = Loader([table.source], [])
    found = [loader.load([0, part.item]) for part in parts]
    for each in found:
        assert each.wrong is None or isinstance(each.wrong, (RowError, LoadError))
        if each.wrong is None or isinstance(each.wrong, RowError):
            good = 0 if each.value is None else len(each.value)
            bad = len(each.wrong.rows) if each.wrong is not None else 0
            assert good + bad == each.items
    frames = [each.value for each in found if each.value is not None]
    assert all(frame.dtypes.equals(frames[0].dtypes) for frame in frames)
    return found


def lines_of(content: bytes) -> int:
    return len(Records(",", quoted=False).split(content.removeprefix(b"\xef\xbb\xbf")))


@FUZZ
@given(st.integers(), st.integers(1, 6), st.sampled_from([13, 50, 300, 5000]))
def test_csv(scratch: Path, seed: int, wounds: int, size: int) -> None:
    header, _, rest = TABLE.to_csv(index=False).partition("\n")
    content = header.encode() + b"\n" + broken(rest.encode(), seed, wounds)
    path = scratch / "t.csv"
    path.write_bytes(content)
    found = all_of(TabularDataset.from_delimited_files(path, set_column_types=TYPES), size)
    assert found is not None
    assert sum(each.items for each in found) == lines_of(content) - 1


@FUZZ
@given(st.integers(), st.integers(1, 6), st.sampled_from([13, 50, 300, 5000]))
def test_csv_with_line_breaks_in_fields(scratch: Path, seed: int, wounds: int, size: int) -> None:
    header, _, rest = TABLE.to_csv(index=False, quoting=1).partition("\n")
    content = header.encode() + b"\n" + broken(rest.encode(), seed, wounds)
    path = scratch / "m.csv"
    path.write_bytes(content)
    dataset = TabularDataset.from_delimited_files(path, support_multi_line=True, set_column_types=TYPES)
    found = all_of(dataset, size)
    assert found is not None
    assert sum(each.items for each in found) == len(Records(",", quoted=True).split(content)) - 1


@FUZZ
@given(st.integers(), st.integers(1, 6), st.sampled_from([13, 50, 300, 5000]))
def test_json_lines(scratch: Path, seed: int, wounds: int, size: int) -> None:
    content = broken(TABLE.to_json(orient="records", lines=True).encode(), seed, wounds)
    path = scratch / "t.jsonl"
    path.write_bytes(content)
    found = all_of(TabularDataset.from_json_lines_files(path), size)
    if found is not None:
        assert sum(each.items for each in found) == lines_of(content)


@FUZZ
@given(st.integers(), st.integers(0, 4), st.floats(0, 1))
def test_parquet(scratch: Path, seed: int, wounds: int, kept: float) -> None:
    whole = io.BytesIO()
    TABLE.to_parquet(whole, row_group_size=15)
    content = whole.getvalue()
    path = scratch / "t.parquet"
    path.write_bytes(broken(content[: int(len(content) * kept)] if not wounds else content, seed, wounds))
    found = all_of(TabularDataset.from_parquet_files(path), 100)
    if found is not None:
        assert sum(each.items for each in found) <= ROWS
        for each in found:
            assert each.items > 0


@FUZZ
@given(st.binary(max_size=300), st.sampled_from(["t.csv", "t.jsonl", "t.parquet", "t.csv.gz", "t.csv.xz"]))
def test_no_table_at_all(scratch: Path, content: bytes, name: str) -> None:
    path = scratch / name
    path.write_bytes(content)
    make = {
        "csv": TabularDataset.from_delimited_files,
        "jsonl": TabularDataset.from_json_lines_files,
        "parquet": TabularDataset.from_parquet_files,
    }[name.split(".")[1]]
    all_of(make(path), 100)


def test_json_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"a": 1}) + '\n{"a": 1} {"a": 2}\n{"a": "\\ud800"}\n')
    found = all_of(TabularDataset.from_json_lines_files(path), 1000)
    assert found is not None
    assert (found[0].items, len(found[0].value)) == (3, 1)
