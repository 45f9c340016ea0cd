# SPDX-License-Identifier: Apache-2.0
"""Runs over the rows that a filter keeps: these are the items, and all of them are accounted for."""

from __future__ import annotations

import datetime
import json
import os
import sqlite3
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_parallelrun.config import TableSize
from airflow_parallelrun.datasets import TabularDataset
from airflow_parallelrun.datasets.connections import connected
from airflow_parallelrun.datasets.table import Table
from airflow_parallelrun.exceptions import ConfigurationError, EmptyInputError, UnknownNameError
from airflow_parallelrun.worker.conditions import as_arrow
from airflow_parallelrun.worker.loading import Loader

ROWS = 1000
KEPT = [n for n in range(ROWS) if n % 7 in (1, 2)]
ECHO = """
def run(frame):
    return frame
"""


@pytest.fixture
def sales(job):
    table = pa.table(
        {
            "n": range(ROWS),
            "store": [n % 7 for n in range(ROWS)],
            "day": [datetime.date(2026, 1, 1 + n % 28) for n in range(ROWS)],
            "text": [None if n % 5 == 0 else f"row {n}" for n in range(ROWS)],
        }
    )
    pq.write_table(table, job.folder / "sales.parquet", row_group_size=300)
    return job


def dataset(path="sales.parquet"):
    return TabularDataset.from_parquet_files(path).keep_columns(["n"])


def kept_by(condition, made=None):
    made = made or dataset()
    return (made.filter(condition(made)).as_direct(),)


def run(job, inputs, script=ECHO, **config):
    config.setdefault("mini_batch_size", "50rows")
    job.split(script, inputs=inputs, **config)
    return job.run()


def one_or_two(table):
    return table["store"].isin([1, 2])


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_rows_that_are_kept_come_out_once_and_in_order(sales, nodes):
    result = run(sales, kept_by(one_or_two), node_count=nodes)
    assert (sales.plan.items, sales.plan.mini_batches) == (len(KEPT), 7)
    assert sales.rows() == [str(n) for n in KEPT]
    assert (result.counts.items, result.verdict) == (len(KEPT), "succeeded")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda t: t["day"] == datetime.date(2026, 1, 3), lambda n: n % 28 == 2),
        (lambda t: (t["n"] > 5) & ~(t["n"] >= 10), lambda n: 5 < n < 10),
        (lambda t: t["text"].is_null() | (t["n"] == 1), lambda n: n % 5 == 0 or n == 1),
        (lambda t: ~(t["text"] == "row 1"), lambda n: n % 5 and n != 1),
        (lambda t: ~t["text"].isin(["row 1", "row 2"]), lambda n: n % 5 and n not in (1, 2)),
        (lambda t: t["text"] != "row 1", lambda n: n % 5 and n != 1),
        (lambda t: t["n"] < 4.5, lambda n: n < 4.5),
    ],
)
def test_conditions(sales, condition, expected):
    run(sales, kept_by(condition))
    assert sales.rows() == [str(n) for n in range(ROWS) if expected(n)]


def test_skip_and_take_count_what_is_kept(sales):
    (given,) = kept_by(one_or_two)
    run(sales, (given.dataset.skip(55).take(100).as_direct(),))
    assert sales.rows() == [str(n) for n in KEPT[55:155]]


def test_a_row_group_without_a_row_that_is_kept_is_in_no_mini_batch(sales):
    run(sales, kept_by(lambda t: t["n"] >= 950), mini_batch_size="10KB")
    assert sales.plan.mini_batches == 1
    assert sales.rows() == [str(n) for n in range(950, ROWS)]


def test_rows_are_named_by_their_place_in_the_file(sales):
    made = TabularDataset.from_parquet_files("sales.parquet", set_column_types={"text": "int64"})
    result = run(
        sales,
        kept_by(lambda t: t["n"].isin([310, 311, 999]), made),
        error_threshold=-1,
        output_action="summary_only",
    )
    assert (result.counts.items, result.counts.items_failed) == (3, 3)
    assert [line["item"].rpartition(", ")[2] for line in sales.failed_items()] == [
        "row 310",
        "row 311",
        "row 999",
    ]


def test_bisection_and_provenance(sales):
    script = """
        def run(frame):
            if (frame["n"] == 15).any(): raise ValueError("unlucky")
            return frame
    """
    given = {"bisect_failures": True, "run_max_try": 1, "error_threshold": 1}
    result = run(sales, kept_by(one_or_two), script, provenance_columns=["row"], **given)
    assert (result.counts.items, result.counts.items_failed) == (len(KEPT), 1)
    assert sales.rows()[:5] == ["1 0", "2 1", "8 2", "9 3", "16 5"]


@pytest.mark.parametrize("always", [False, True])
def test_a_killed_process_changes_no_count(sales, always):
    script = f"""
        import os, signal
        FLAG = {str(sales.folder / "flag")!r}
        def run(frame):
            if {always} or not os.path.exists(FLAG):
                open(FLAG, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return frame
    """
    given = {"error_threshold": -1, "output_action": "summary_only", "run_max_try": 2}
    counts = run(sales, kept_by(one_or_two), script, mini_batch_size="200rows", **given).counts
    assert (counts.items, counts.items_failed) == (len(KEPT), len(KEPT) if always else 0)


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        (lambda t: t["m"] > 1, UnknownNameError, "unknown column 'm'"),
        (lambda t: t["text"] > 5, ConfigurationError, r"the column 'text', which is string, with 5"),
        (lambda t: t["n"].isin(["x"]), ConfigurationError, r"the column 'n', which is int64, with \['x'\]"),
        (lambda t: t["n"].isin(["5"]), ConfigurationError, r"the column 'n', which is int64, with \['5'\]"),
        (lambda t: t["n"].isin([True]), ConfigurationError, r"the column 'n', which is int64, with \[True\]"),
        (lambda t: t["n"] > 5000, EmptyInputError, "no row that the filter keeps"),
    ],
)
def test_what_split_refuses(sales, condition, error, message):
    with pytest.raises(error, match=message):
        sales.split(ECHO, inputs=kept_by(condition))
    assert not sales.output.exists()


def test_a_changed_file(sales):
    sales.split(
        ECHO,
        inputs=kept_by(one_or_two),
        mini_batch_size="50rows",
        error_threshold=-1,
        output_action="summary_only",
    )
    os.utime(sales.folder / "sales.parquet", ns=(0, 5))
    counts = sales.run().counts
    assert (counts.items, counts.items_failed, counts.items_at_least) == (len(KEPT), len(KEPT), False)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda t: t["x"] != 0.5, [1, 2]),
        (lambda t: ~(t["x"] <= 0.5), [1]),
        (lambda t: ~t["x"].isin([0.5]), [1, 2]),
    ],
)
def test_nan_is_a_value_whatever_the_statistics_say(sales, kind, condition, expected):
    # Of a row group with NaN, too, they have the least and the greatest number alone.
    table = pa.table({"n": range(4), "x": pa.array([0.5, float("nan"), 0.25, None], kind)})
    pq.write_table(table, sales.folder / "nan.parquet", row_group_size=2)
    run(sales, kept_by(condition, dataset("nan.parquet")))
    assert sales.rows() == [str(n) for n in expected]


def test_statistics_do_not_hide_what_isin_finds(sales):
    table = pa.table({"n": range(2), "x": pa.array([0.1, 0.2], "float32")})
    pq.write_table(table, sales.folder / "small.parquet")
    run(sales, kept_by(lambda t: t["x"].isin([0.1]), dataset("small.parquet")))
    assert sales.rows() == ["0"]


# Any tables and conditions: Parquet and SQL keep what pyarrow keeps.

COLUMNS = {"a": st.none() | st.integers(-3, 3), "b": st.none() | st.sampled_from(["x", "y", "z"])}
rows_of_tables = st.lists(st.tuples(*COLUMNS.values()), min_size=1, max_size=40)
operators = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
comparisons = (
    st.tuples(operators, st.just("a"), st.integers(-3, 3))
    | st.tuples(operators, st.just("b"), st.sampled_from(["x", "y", "z"]))
    | st.tuples(st.just("in"), st.just("a"), st.lists(st.integers(-3, 3), min_size=1, max_size=3))
    | st.tuples(st.just("is_null"), st.sampled_from(["a", "b"]))
)
conditions = st.recursive(
    comparisons.map(list),
    lambda part: (
        st.tuples(st.sampled_from(["and", "or"]), part, part).map(list) | part.map(lambda one: ["not", one])
    ),
    max_leaves=4,
)


def truth(condition, row):
    """Whether a condition is true of a row by the rules of SQL; None for neither."""
    kind, *parts = condition
    if kind == "not":
        value = truth(parts[0], row)
        return None if value is None else not value
    if kind in ("and", "or"):
        values = {truth(part, row) for part in parts}
        decisive = kind == "or"
        return decisive if decisive in values else None if None in values else not decisive
    value = row[parts[0]]
    if kind == "is_null":
        return value is None
    if value is None:
        return None
    if kind == "in":
        return value in parts[1]
    return {
        "==": value == parts[1],
        "!=": value != parts[1],
        "<": value < parts[1],
        "<=": value <= parts[1],
        ">": value > parts[1],
        ">=": value >= parts[1],
    }[kind]


def loaded(made, size):
    """The rows of all mini-batches together, each by its number; and how many each has in the plan."""
    table = Table(made, [*made.files()], size)
    loader = Loader([connected(table.source)], [])
    parts = [*table.parts()]
    found = [loader.load([0, json.loads(json.dumps(part.item))]) for part in parts]
    assert [each.wrong for each in found] == [None] * len(parts)
    assert [each.items for each in found] == [part.rows for part in parts]
    return [n for each in found for n in each.value["n"]], [part.rows for part in parts]


@settings(deadline=None, max_examples=80)
@given(rows_of_tables, conditions, st.integers(1, 9), st.integers(1, 20))
def test_all_mini_batches_together_are_the_rows_that_are_kept(tmp_path_factory, rows, condition, size, group):
    folder = tmp_path_factory.mktemp("filter")
    a, b = zip(*rows, strict=True)
    table = pa.table({"n": range(len(rows)), "a": pa.array(a, "int64"), "b": pa.array(b, "string")})
    pq.write_table(table, folder / "t.parquet", row_group_size=group)
    with closing(sqlite3.connect(folder / "t.db")) as database:
        database.execute("CREATE TABLE t (n INTEGER, a INTEGER, b TEXT)")
        database.executemany("INSERT INTO t VALUES (?, ?, ?)", [(n, *row) for n, row in enumerate(rows)])
        database.commit()
    expected = [n for n, (a, b) in enumerate(rows) if truth(condition, {"a": a, "b": b})]
    assert table.filter(as_arrow(condition)).column("n").to_pylist() == expected
    parquet = TabularDataset.of(str(folder / "t.parquet"), format="parquet", condition=condition)
    query = TabularDataset.of(
        "SELECT * FROM t", format="sql", connection=f"sqlite:///{folder}/t.db", key="n", condition=condition
    )
    for made in (parquet, query):
        if made is query and not expected:
            with pytest.raises(EmptyInputError, match="that the filter keeps"):
                loaded(made, TableSize(size, "rows"))
            continue
        numbers, counts = loaded(made, TableSize(size, "rows"))
        assert numbers == expected
        assert all(count <= size for count in counts)
