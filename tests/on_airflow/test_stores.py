# SPDX-License-Identifier: Apache-2.0
"""A step from a store to a store, by a connection of Airflow's; nobody who need not sees its key."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from harness import eventually
from storage_servers import azure_container

if TYPE_CHECKING:
    from harness import DagRun, Workspace
    from storage_servers import ObjectStore

ITEMS = 6


@dataclass
class Run:
    """A run that has ended, and what was seen of its processes while its script waited."""

    dag_run: DagRun
    store: ObjectStore
    workers: list[int]
    seen: dict[int, bytes]


@pytest.fixture(scope="module")
def run(workspace: Workspace, azurite: str) -> Run:
    """Run it to its end; the connection is in Airflow's database and nowhere else."""
    store = azure_container(azurite)
    for number in range(ITEMS):
        store.write(f"input/{number}", b"x")
    _connect(workspace, "azurite", store.options["connection_string"])
    started = workspace.run("stores", _conf(store, "azurite"), "hold-3")
    held = started.folder / "held"
    eventually(held.exists, "the script waits")
    workers = [int(line.split()[1]) for line in held.read_text().splitlines()]
    seen = {process.pid: _shown(process) for process in _relatives(workers[0])}
    started.untell("hold-3")
    started.ends_as("success")
    print({k: (v["duration"], v["start_date"], v["end_date"]) for k, v in started.instances().items()})
    return Run(started, store, workers, seen)


def _connect(workspace: Workspace, name: str, connection_string: str) -> None:
    connection = {"connection_id": name, "conn_type": "wasb"}
    connection["extra"] = json.dumps({"connection_string": connection_string})
    workspace.client.request("POST", "/connections", json=connection)


def _conf(store: ObjectStore, connection: str) -> dict[str, str]:
    url = f"abfs://{connection}@{store.container}"
    return {"store": url, "files": f"{url}/input"}


def _relatives(worker: int) -> list[psutil.Process]:
    """Return a worker, its node, all that the node has started, and what has started the node."""
    node = psutil.Process(worker).parent()
    assert node is not None
    return [node, *node.parents()[:2], *node.children(recursive=True)]


def _shown(process: psutil.Process) -> bytes:
    folder = Path("/proc", str(process.pid))
    return _content(folder / "cmdline") + _content(folder / "environ")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # it is gone, or its process is
        return b""


def test_output_and_run_directory_are_in_the_store(run: Run) -> None:
    folder = f"out/{run.dag_run.run_id}"
    rows = run.store.read(f"{folder}/rows.txt").decode().splitlines()
    assert sorted(rows) == [str(number) for number in range(ITEMS)]
    url = f"{run.store.url}/{folder}"
    assert run.dag_run.xcom("predict.reduce", "output") == f"{url}/rows.txt"
    run_dir = run.dag_run.xcom("predict.split", "plan")["run_dir"]
    assert run_dir.startswith(f"{url}/.parallelrun/")
    assert f"{run_dir.removeprefix(run.store.url)[1:]}/plan.json" in run.store.paths(folder)


def test_the_key_is_in_no_file_log_or_xcom(run: Run, workspace: Workspace) -> None:
    secret = run.store.secret.encode()
    objects = run.store.paths()
    assert any(path.endswith("/plan.json") for path in objects)
    assert [path for path in objects if secret in run.store.read(path)] == []
    # Also Airflow's database, which has it encrypted.
    files = {path: _content(path) for path in workspace.root.rglob("*") if path.is_file()}
    assert files[workspace.root / "home" / "airflow.db"]
    assert any(path.is_relative_to(workspace.root / "home" / "logs" / "tasks") for path in files)
    assert [path for path, content in files.items() if secret in content] == []
    logs = "".join(map(run.dag_run.log, run.dag_run.states()))
    assert run.store.secret not in logs
    assert "Request URL" not in logs  # Azure's library would tell each of them
    for task in ("predict.split", "predict.reduce"):
        path = f"/dags/stores/dagRuns/{run.dag_run.run_id}/taskInstances/{task}/xcomEntries"
        entries = workspace.client.request("GET", path)["xcom_entries"]
        assert entries
        for entry in entries:
            assert run.store.secret not in json.dumps(run.dag_run.xcom(task, entry["key"]))


def test_the_key_is_in_no_command_line_and_no_environment(run: Run) -> None:
    assert run.workers
    assert set(run.workers) <= set(run.seen)
    assert all(run.seen[worker] for worker in run.workers)
    assert [pid for pid, text in run.seen.items() if run.store.secret.encode() in text] == []


def test_a_key_that_the_store_refuses_is_not_shown(run: Run, workspace: Workspace) -> None:
    wrong = base64.b64encode(b"this is not the key of the account").decode()
    _connect(workspace, "refused", run.store.options["connection_string"].replace(run.store.secret, wrong))
    failed = workspace.run("stores", _conf(run.store, "refused"))
    states = failed.ends_as("failed")
    assert states["predict.split"] == "failed"
    log = failed.log("predict.split")
    assert f"abfs://refused@{run.store.container}/input" in log
    assert wrong not in log
