# SPDX-License-Identifier: Apache-2.0
"""For any frames, what is read back from the output is what run() returned."""

from __future__ import annotations

import csv
import datetime
import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from workbench import OneRun

from airflow_parallelrun.engine import parquet
from airflow_parallelrun.worker.output import Origin, RowFormatter

ORIGIN = Origin(0, ["x"], None, 1)
KINDS = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "Int64": st.none() | st.integers(-(2**63), 2**63 - 1),
    "float64": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "datetime64[us]": st.none() | st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)),
}


@st.composite
def mini_batches(draw):
    """Some lists of rows of one set of columns, and the columns' dtypes."""
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
    dtypes = draw(st.dictionaries(text, st.sampled_from(sorted(KINDS)), min_size=1, max_size=4))
    values = st.tuples(*[KINDS[dtype] for dtype in dtypes.values()])
    row = values.map(lambda values: dict(zip(dtypes, values, strict=True)))
    return dtypes, draw(st.lists(st.lists(row, max_size=4), min_size=1, max_size=4))


def frames(dtypes, batches):
    for rows in batches:
        yield pd.DataFrame(
            {name: pd.Series([row[name] for row in rows], dtype=dtype) for name, dtype in dtypes.items()}
        )


def formatter(run, row_format):
    return RowFormatter("/nowhere", True, agree=run.agree, row_format=row_format)


def tables(dtypes, batches):
    for rows in batches:
        types = {"Int64": pa.int64(), "str": pa.string(), "datetime64[us]": pa.timestamp("us")}
        types |= {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
        yield pa.table({name: pa.array([row[name] for row in rows], types[dtypes[name]]) for name in dtypes})


@settings(deadline=None)
@given(mini_batches(), st.sampled_from([frames, tables, lambda dtypes, batches: batches]))
def test_parquet_is_read_back_as_it_was(case, kind):
    dtypes, batches = case
    run = OneRun()
    made = formatter(run, "parquet")
    written = [made.rows(value, ORIGIN) for value in kind(dtypes, batches)]
    rows = [row for batch in batches for row in batch]
    if not rows:
        assert not any(written)
        return
    file = io.BytesIO()
    parquet.write(file, run, iter(written))
    assert pq.read_table(io.BytesIO(file.getvalue())).to_pylist() == rows


@settings(deadline=None)
@given(mini_batches(), st.sampled_from([frames, tables, lambda dtypes, batches: batches]))
def test_json_lines_are_read_back_as_they_were(case, kind):
    dtypes, batches = case
    made = formatter(OneRun(), "jsonl")
    text = b"".join(made.rows(value, ORIGIN) for value in kind(dtypes, batches)).decode()
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    for row in rows:
        for name, dtype in dtypes.items():
            if dtype.startswith("datetime") and row[name] is not None:
                row[name] = datetime.datetime.fromisoformat(row[name])
    assert rows == [row for batch in batches for row in batch]


@settings(deadline=None)
@given(mini_batches(), st.sampled_from([frames, tables, lambda dtypes, batches: batches]))
def test_csv_is_read_back_as_it_was(case, kind):
    """Missing text and empty text are one thing there."""
    dtypes, batches = case
    made = formatter(OneRun(), "csv")
    written = b"".join([made.rows(value, ORIGIN) for value in kind(dtypes, batches)])
    rows = [row for batch in batches for row in batch]
    if not rows:
        return
    found = [*csv.reader(io.StringIO((made.header + written).decode(), newline=""))]
    assert found[0] == [*dtypes]
    for line, row in zip(found[1:], rows, strict=True):
        for cell, value in zip(line, row.values(), strict=True):
            if value is None:
                assert cell == ""
            elif isinstance(value, float):
                assert float(cell) == value
            else:
                assert cell == str(value)
