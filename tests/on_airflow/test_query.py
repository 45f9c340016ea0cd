# SPDX-License-Identifier: Apache-2.0
"""A step over a database: the URL comes from Airflow's own connections, and stays out of what is written."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness import DagRun, Workspace

ROWS = 10
# SQLite takes it and does nothing with it: in place of a password, which it has not.
SECRET = "cached_statements=77"


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> DagRun:
    """Run it to its end."""
    path = workspace.root / "sales.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE sales (id INTEGER PRIMARY KEY, store TEXT)")
        database.executemany("INSERT INTO sales VALUES (?, ?)", [(n, f"store {n}") for n in range(ROWS)])
        database.commit()
    name, _, value = SECRET.partition("=")
    connection = {"connection_id": "sales", "conn_type": "sqlite", "schema": str(path)}
    connection["extra"] = json.dumps({name: value})
    workspace.client.request("POST", "/connections", json=connection)
    started = workspace.run("query")
    started.ends_as("success")
    return started


def test_every_row_of_the_query_comes_out_once(run: DagRun) -> None:
    assert run.rows() == sorted(f'{n} "store {n}"' for n in range(ROWS))
    assert run.result()["counts"]["items"] == ROWS


def test_the_url_is_nowhere_on_the_disk(run: DagRun) -> None:
    files = [path for path in run.output.rglob("*") if path.is_file()]
    assert run.run_dir / "plan.json" in files
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in "".join(map(run.log, run.states()))


def test_a_connection_that_nobody_knows(workspace: Workspace, run: DagRun) -> None:
    workspace.client.request("DELETE", "/connections/sales")
    failed = workspace.run("query")
    states = failed.ends_as("failed")
    assert states["predict.split"] == "failed"
    log = failed.log("predict.split")
    assert "there is no connection 'sales'" in log
    assert "PARALLELRUN_CONNECTION_SALES" in log
