# SPDX-License-Identifier: Apache-2.0
"""Starting and stopping an Airflow with all its processes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import create_engine

from demo.airflow_client import AirflowApiError
from demo.components import Component, Components
from demo.local_airflow import LocalAirflow, LocalAirflowError

ROOT = Path(__file__).resolve().parents[2]

_DAG = """
import time
from airflow.sdk import DAG, task

with DAG("sleep", schedule=None, catchup=False):
    @task
    def answer():
        time.sleep(0.1)
        return {"answer": 42}
    answer()
"""

# Starts a child in the session, which ignores SIGTERM, and one in a session of its own.
_FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""


def test_stop_ends_a_component_that_ignores_sigterm_and_its_children(tmp_path: Path) -> None:
    components = _family(tmp_path)
    (component,) = components.listed()
    family = _members(component, 3)
    assert components.stop(grace_s=0.2)
    assert not any(process.is_running() for process in family)
    assert components.listed() == []
    assert not components.stop()


def test_what_a_killed_leader_left_is_found_by_the_next_owner_of_the_folder(tmp_path: Path) -> None:
    components = _family(tmp_path)
    (component,) = components.listed()
    family = _members(component, 3)
    # The one in a session of its own is out of reach without its parent; workers have a guardian for that.
    (own_session,) = (process for process in family if os.getsid(process.pid) == process.pid != component.pid)
    own_session.kill()
    (leader,) = components._children
    leader.kill()
    leader.wait()
    assert Components(tmp_path, tmp_path).stop(grace_s=0.2)
    assert not any(process.is_running() for process in family)


def test_what_a_killed_component_started_goes_on_until_stop(tmp_path: Path) -> None:
    components = _family(tmp_path)
    (component,) = components.listed()
    leader, *others = sorted(_members(component, 3), key=lambda process: process.pid != component.pid)
    # Which child is in a session of its own does not matter; without its parent it is out of reach.
    others = [process for process in others if os.getsid(process.pid) == component.pid]
    components.kill("family", family=False)
    assert not leader.is_running()
    assert all(process.is_running() for process in others)
    assert components.listed() == []
    with pytest.raises(KeyError, match="family"):
        components.kill("family", family=False)

    components.start("family", [sys.executable, "-c", _FAMILY], os.environ, tmp_path, again=True)
    (successor,) = components.listed()
    new = _members(successor, 3)
    components.kill("family", family=True)
    assert not any(process.is_running() for process in new)
    assert all(process.is_running() for process in others)
    assert Components(tmp_path, tmp_path).stop(grace_s=0.2)
    assert not any(process.is_running() for process in others)


def test_a_pid_file_that_names_another_process_does_no_harm(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    ) as other:
        created = psutil.Process(other.pid).create_time()
        entry = {"pid": other.pid, "created": created - 3600}
        (tmp_path / "scheduler.json").write_text(json.dumps(entry))
        assert not Components(tmp_path, tmp_path).stop()
        assert other.poll() is None
        assert list(tmp_path.glob("*.json")) == []
        other.kill()


@pytest.mark.airflow
def test_a_run_from_start_to_stop(tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "sleep.py").write_text(_DAG)
    airflow = LocalAirflow(tmp_path / "home", tmp_path / "dags", parallelism=1)
    with airflow:
        airflow.wait_for_dags(["sleep"])
        assert airflow.is_running()
        family = [process for component in airflow._components.listed() for process in component.members()]
        assert _listens_on_loopback_only(family)
        client = airflow.client
        run_id = client.trigger("sleep", run_id="first")
        assert client.wait("sleep", run_id)["state"] == "success"
        assert client.xcom("sleep", run_id, "answer") == {"answer": 42}
        assert client.task_state("sleep", run_id, "answer", -1, "progress") is None
        assert any("answer" in str(line) for line in client.logs("sleep", run_id, "answer"))
        with pytest.raises(AirflowApiError, match="404"):
            client.dag_run("sleep", "no such run")

        _kill_and_restart(airflow)
        second = client.trigger("sleep", run_id="second")
        assert client.wait("sleep", second)["state"] == "success"
        assert [run["dag_run_id"] for run in client.unfinished_runs("sleep")] == []

        (tmp_path / "dags" / "broken.py").write_text("from airflow.sdk import DAG\nimport no_such_module\n")
        with pytest.raises(LocalAirflowError, match=r"(?s)broken\.py.*no_such_module"):
            airflow.wait_for_dags(["no_such_dag"])
    assert not any(process.is_running() for process in family)
    assert not airflow.is_running()
    assert list((tmp_path / "home" / "run").rglob("*.json")) == []
    for name in ("secrets.json", "passwords.json"):
        assert stat.S_IMODE((tmp_path / "home" / name).stat().st_mode) == 0o600


@pytest.mark.airflow
def test_a_component_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    airflow = LocalAirflow(
        tmp_path / "home", tmp_path / "dags", environment={"AIRFLOW__CORE__EXECUTOR": "NoSuchExecutor"}
    )
    with pytest.raises(LocalAirflowError, match=r"(?s)NoSuchExecutor.*The full log is"):
        airflow.start()
    assert not airflow.is_running()


def test_who_waits_for_the_database_and_how_long(tmp_path: Path) -> None:
    airflow = LocalAirflow(tmp_path / "home", tmp_path / "dags")
    (tmp_path / "home").mkdir()
    waits_ms = {}
    for component in ("api-server", "scheduler", "dag-processor"):
        engine = create_engine(airflow.environment(component)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
        with engine.connect() as connection:
            waits_ms[component] = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
    assert waits_ms == {"api-server": 5_000, "scheduler": 60_000, "dag-processor": 60_000}


def _kill_and_restart(airflow: LocalAirflow) -> None:
    """Kill the scheduler alone and the API server with its family, and bring both back where they were."""
    url = airflow.url
    (scheduler,) = (each for each in airflow._components.listed() if each.name == "scheduler")
    forks = [process for process in scheduler.members() if process.pid != scheduler.pid]
    airflow.kill("scheduler")
    assert forks
    assert all(process.is_running() for process in forks)
    assert not airflow.is_running()
    airflow.kill("api-server", family=True)
    with pytest.raises(httpx.HTTPError):
        airflow.client.dag("sleep")
    airflow.restart("api-server")
    airflow.restart("scheduler")
    assert airflow.is_running()
    assert airflow.url == url


def _family(folder: Path) -> Components:
    components = Components(folder, folder)
    components.start("family", [sys.executable, "-c", _FAMILY], os.environ, folder)
    return components


def _members(component: Component, count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 10
    while len(members := component.members()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return members


def _listens_on_loopback_only(processes: list[psutil.Process]) -> bool:
    addresses = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    return addresses == {"127.0.0.1"}
