# SPDX-License-Identifier: Apache-2.0
"""Runs over queries: every row that the database has is in one mini-batch, and counted."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_parallelrun.config import TableSize
from airflow_parallelrun.datasets import Dataset, DatasetInput, TabularDataset
from airflow_parallelrun.datasets.connections import connected
from airflow_parallelrun.datasets.table import Table
from airflow_parallelrun.exceptions import ConfigurationError, DatasetError
from airflow_parallelrun.worker.loading import Loader

ROWS = 1000
ECHO = """
def run(frame):
    return frame
"""


def fill(folder, statement, rows, name="sales.db"):
    """Make a database with a table ``sales`` and rows."""
    with contextlib.closing(sqlite3.connect(folder / name)) as database:
        database.execute(statement)
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO sales VALUES ({marks})", rows)
        database.commit()


def execute(folder, statement):
    with contextlib.closing(sqlite3.connect(folder / "sales.db")) as database:
        database.execute(statement)
        database.commit()


def query(text="SELECT * FROM sales", connection="sqlite:///sales.db", key="id", **given):
    return (TabularDataset.from_sql_query(text, connection=connection, key=key, **given).as_direct(),)


@pytest.fixture
def sales(job):
    fill(
        job.folder,
        "CREATE TABLE sales (id INTEGER PRIMARY KEY, store TEXT, income REAL)",
        [(n * 3, f"store {n % 7}", n / 4) for n in range(ROWS)],
    )
    return job


def run(job, inputs, script=ECHO, **config):
    config.setdefault("mini_batch_size", "128rows")
    job.split(script, inputs=inputs, **config)
    return job.run()


def expected(rows=range(ROWS)):
    return [f'{n * 3} "store {n % 7}" {n / 4}' for n in rows]


@pytest.mark.parametrize("nodes", [1, 3])
def test_every_row_comes_out_once_and_in_order(sales, nodes):
    result = run(sales, query(), node_count=nodes)
    assert (sales.plan.mini_batches, sales.plan.items) == (8, ROWS)
    assert sales.rows() == expected()
    assert (result.counts.items, result.counts.rows, result.verdict) == (ROWS, ROWS, "succeeded")


def test_a_size_in_bytes_is_that_of_the_rows_as_text(sales):
    run(sales, query(), mini_batch_size="5KB")
    text = sum(len(row) + 1 for row in expected())
    assert sales.plan.mini_batches == pytest.approx(text / 5120, abs=2)
    assert sales.rows() == expected()


def test_columns_types_and_a_condition(sales):
    script = """
        def run(frame):
            assert str(dict(frame.dtypes)) == "{'income': dtype('float64'), 'id': dtype('float64')}"
            return frame
    """
    text = "SELECT * FROM sales WHERE store = 'store 3' AND '12:30' <> ' :x %s';"
    (dataset,) = query(text, set_column_types={"id": "float64"})
    kept = dataset.dataset.keep_columns(["income", "id"])
    run(sales, (kept.as_named_input("sales"),), script)
    assert sales.rows() == [f"{n / 4} {n * 3:.1f}" for n in range(3, ROWS, 7)]


def test_a_secret_stays_out_of_the_run_directory(sales, monkeypatch):
    monkeypatch.setenv("PARALLELRUN_CONNECTION_SALES_DB", f"sqlite:///{sales.folder}/sales.db?timeout=77")
    run(sales, query(connection="sales-db"))
    assert sales.rows() == expected()
    assert sales.plan.sources[0]["connection"] == "sales-db"
    files = [path for path in sales.output.rglob("*") if path.is_file()]
    assert Path(sales.plan.run_dir, "plan.json") in files
    assert not [path for path in files if b"timeout=77" in path.read_bytes()]


def test_what_changes_between_the_rows_of_the_plan_is_no_part_of_it(sales):
    sales.split(ECHO, inputs=query(), mini_batch_size="128rows")
    execute(sales.folder, f"INSERT INTO sales VALUES ({ROWS * 3}, 'late', 0)")
    sales.run()
    assert sales.rows() == expected()


@pytest.mark.parametrize(
    "change", ["DELETE FROM sales WHERE id = 30", "INSERT INTO sales VALUES (31, 'x', 0)"]
)
def test_other_rows_than_planned_fail_their_mini_batch(sales, change):
    sales.split(ECHO, inputs=query(), mini_batch_size="128rows", error_threshold=-1)
    execute(sales.folder, change)
    counts = sales.run().counts
    assert (counts.failed, counts.items_failed, counts.items) == (1, 128, ROWS)
    assert not counts.items_at_least
    (failed,) = sales.failed_items()
    assert failed["items"] == ["sqlite:///" + str(sales.folder / "sales.db") + ", id 0 to 381"]
    found = 127 if change.startswith("DELETE") else 129
    assert failed["error"]["message"].endswith(
        f"{found} rows have id from 0 to 381; 128 had, when it was split"
    )
    assert sales.rows() == expected(range(128, ROWS))


def test_rows_that_do_not_fit_are_failed_rows(job):
    fill(job.folder, "CREATE TABLE sales (id, n, t)", [(n, n if n != 7 else "seven", "x") for n in range(20)])
    types = {"n": "int64"}
    result = run(job, query(set_column_types=types), mini_batch_size="5rows", error_threshold=1)
    assert (result.counts.items, result.counts.items_failed, result.counts.short) == (20, 1, 1)
    assert job.rows() == [f"{n} {n} x" for n in range(20) if n != 7]
    (failed,) = job.failed_items()
    assert failed["item"] == f"sqlite:///{job.folder}/sales.db, id 7"
    assert failed["error"]["message"] == "column 'n': 'seven' is not int64"


def test_equal_keys_stay_together(job):
    keys = [0] * 3 + [1] * 10 + [2, 3, 4, 4, 5]
    fill(job.folder, "CREATE TABLE sales (id INTEGER, n INTEGER)", [(key, n) for n, key in enumerate(keys)])
    script = "def run(frame): return [' '.join(map(str, frame['id']))] * len(frame)\n"
    run(job, query(), script, mini_batch_size="4rows", append_row_order="input")
    batches = list(dict.fromkeys(job.rows()))
    assert batches == [" ".join(["0"] * 3 + ["1"] * 10), "2 3 4 4", "5"]


def test_keys_that_a_database_may_take_for_one_stay_together(job):
    rows = [(name, n) for n, name in enumerate(["b", "B", "a", "A", "c", "C"])]
    fill(job.folder, "CREATE TABLE sales (id TEXT COLLATE NOCASE, n INTEGER)", rows)
    run(job, query(), "def run(frame): return [len(frame)] * len(frame)\n", mini_batch_size="1rows")
    assert job.rows() == ["2"] * 6


def test_missing_values_of_any_row_make_the_type(job):
    rows = [(n, n, n % 2 == 0, "t") for n in range(3000)] + [(3000, None, None, None)]
    fill(job.folder, "CREATE TABLE sales (id INTEGER, n INTEGER, b BOOLEAN, t TEXT)", rows)
    script = "def run(frame): return [str(dict(frame.dtypes))] * len(frame)"
    run(job, query(), script, mini_batch_size="1000rows")
    (types,) = set(job.rows())
    assert "'n': dtype('float64')" in types
    assert "'id': dtype('int64')" in types


def test_bisection_and_provenance(sales):
    script = """
        def run(frame):
            if (frame["id"] == 30).any(): raise ValueError("unlucky")
            return frame
    """
    result = run(
        sales,
        query(),
        script,
        bisect_failures=True,
        error_threshold=1,
        run_max_try=1,
        provenance_columns=["source", "row"],
    )
    assert (result.counts.items, result.counts.items_failed) == (ROWS, 1)
    place = f"sqlite:///{sales.folder}/sales.db"
    assert sales.rows()[10] == f'33 "store 4" 2.75 {place} 11'


def test_a_query_is_copied_into_partitions(sales):
    (given,) = query(connection=f"sqlite:///{sales.folder}/sales.db")
    copied = given.dataset.partition_by(["store"], sales.folder / "parts")
    assert copied.partition_keys == ("store",)
    frame = pd.read_parquet(sales.folder / "parts")
    assert sorted(frame["id"]) == [n * 3 for n in range(ROWS)]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"text": "SELECT * FROM sale"}, DatasetError, r"connection 'sqlite:.*no such table: sale"),
        ({"text": "SELECT * FROM sales WHERE id < 0"}, DatasetError, r"the input has no row"),
        ({"key": "ID2"}, ConfigurationError, "unknown key 'ID2'"),
        ({"key": "income"}, ConfigurationError, r"whole numbers, texts or dates, none missing; it has 0\.0"),
        ({"connection": "sqlite:///sales.db?timeout=never"}, DatasetError, "the options of the URL: .*never"),
        ({"connection": "nowhere"}, ConfigurationError, "set PARALLELRUN_CONNECTION_NOWHERE to a URL"),
        ({"connection": "oracle+no_driver://h/d"}, DatasetError, "no_driver"),
        ({"set_column_types": {"x": "int64"}}, ConfigurationError, "unknown column 'x'"),
    ],
)
def test_what_split_refuses(sales, given, error, message):
    with pytest.raises(error, match=message):
        sales.split(ECHO, inputs=query(**given))
    assert not sales.output.exists()


def test_a_filter_over_a_column_that_is_not_there(sales):
    (given,) = query()
    filtered = given.dataset.filter(given.dataset["incone"] > 1)
    with pytest.raises(ConfigurationError, match="unknown column 'incone'; did you mean 'income'"):
        sales.split(ECHO, inputs=(filtered.as_direct(),))


def test_a_url_that_cannot_be_read_is_not_told(sales, monkeypatch):
    monkeypatch.setenv("PARALLELRUN_CONNECTION_C", "postgresql:/me:secret@host")
    with pytest.raises(DatasetError, match="its URL is none that SQLAlchemy can read") as refused:
        sales.split(ECHO, inputs=query(connection="c"))
    assert "secret" not in str(refused.value)


def test_a_missing_key_is_refused(job):
    fill(job.folder, "CREATE TABLE sales (id INTEGER, n INTEGER)", [(1, 1), (2, 2), (None, 3)])
    with pytest.raises(ConfigurationError, match="none missing; it has None"):
        job.split(ECHO, inputs=query())


def test_a_key_of_two_types_is_refused(job):
    fill(job.folder, "CREATE TABLE sales (id, n INTEGER)", [(1, 1), (2, 2), ("x", 3)])
    with pytest.raises(DatasetError, match=r"the key 'id' has 2 and 'x', which are not of one type"):
        job.split(ECHO, inputs=query())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"connection": "postgresql://me:secret@host/d"},
            r"connection .*a name: a URL would stand in the plan",
        ),
        ({"connection": ""}, "the name of an Airflow connection"),
        ({"key": ""}, "the name of a column"),
    ],
)
def test_what_can_never_work_is_refused_at_once(given, message):
    with pytest.raises(ConfigurationError, match=message) as refused:
        query(**given)
    assert "secret" not in str(refused.value)


def test_what_is_said_in_the_query():
    (given,) = query()
    for limited in (given.dataset.skip, given.dataset.take):
        with pytest.raises(ConfigurationError, match="say it in the query"):
            limited(1)


def test_an_input_as_json():
    given = Dataset.Tabular.from_sql_query("SELECT 1 AS id;", connection="c", key="id").as_named_input("n")
    document = json.loads(json.dumps(given.to_dict()))
    assert (document["paths"], document["format"]) == (["SELECT 1 AS id"], "sql")
    assert DatasetInput.from_dict(document) == given
    with pytest.raises(ConfigurationError, match="left out: the table is no query"):
        DatasetInput.from_dict({**document, "format": "delimited"})


keys = st.integers(-50, 50) | st.integers(-(2**63), 2**63 - 1)
rows_of_tables = st.lists(
    st.tuples(keys, st.none() | st.text(max_size=3), st.none() | st.floats(allow_nan=False))
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows_of_tables.filter(bool), st.integers(1, 7))
def test_all_mini_batches_together_are_the_table(tmp_path_factory, rows, count):
    folder = tmp_path_factory.mktemp("query")
    fill(folder, "CREATE TABLE sales (id INTEGER, t TEXT, x REAL)", rows)
    (given,) = query("SELECT id, t, x, rowid AS r FROM sales", f"sqlite:///{folder}/sales.db")
    table = Table(given.dataset, [*given.dataset.files()], TableSize(count, "rows"))
    loader = Loader([connected(table.source)], [])
    parts = [*table.parts()]
    loaded = [loader.load([0, json.loads(json.dumps(part.item))]) for part in parts]
    assert [each.wrong for each in loaded] == [None] * len(parts)
    assert [each.items for each in loaded] == [part.rows for part in parts]
    assert all(str(each.value.dtypes.to_dict()) == str(loaded[0].value.dtypes.to_dict()) for each in loaded)
    found = [tuple(row) for each in loaded for row in each.value.astype(object).itertuples(index=False)]
    found = [tuple(None if value != value else value for value in row) for row in found]
    assert sorted(found, key=lambda row: row[3]) == [(*row, n) for n, row in enumerate(rows, 1)]
    assert [row[0] for row in found] == sorted(row[0] for row in rows)
