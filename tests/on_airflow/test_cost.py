# SPDX-License-Identifier: Apache-2.0
"""What a step asks of Airflow: no more nodes than it can map, one DAG version, no lock on its database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.utils.file import list_py_file_paths
from harness import DAGS, FILES, eventually

if TYPE_CHECKING:
    from harness import DagRun, Workspace

NODES = [f"predict.run[{index}]" for index in range(FILES)]


@pytest.fixture(scope="module")
def runs(workspace: Workspace) -> dict[str, DagRun]:
    """Trigger everything at once, so that the tests share the waiting."""
    return {
        "too_many": workspace.run("probe", {"nodes": 1025}),
        "eight": workspace.run("probe", {"nodes": FILES}, "hold"),
    }


def test_more_nodes_than_airflow_can_map_are_refused_by_split(runs: dict[str, DagRun]) -> None:
    states = runs["too_many"].ends_as("failed")
    assert states["predict.split"] == "failed"
    log = runs["too_many"].log("predict.split")
    assert "the pipeline parameter 'nodes' has a wrong value: node_count must be at most 1024" in log
    assert "max_map_length" in log


def test_eight_nodes_at_once_lock_no_database(runs: dict[str, DagRun], workspace: Workspace) -> None:
    run = runs["eight"]

    def all_work() -> bool:
        states = run.states()
        progress = [
            run.client.task_state("probe", run.run_id, "predict.run", index, "progress")
            for index in range(FILES)
        ]
        # Each has written to the database while all the others run.
        return all(states.get(node) == "running" for node in NODES) and all(progress)

    eventually(all_work, "eight nodes run and show their progress")
    run.untell("hold")
    assert set(run.ends_as("success").values()) == {"success"}
    assert run.rows() == [str(number) for number in range(FILES)]
    logs = [path for path in (workspace.root / "home" / "logs").rglob("*") if path.is_file()]
    assert any("run_id=" in str(path) for path in logs)
    assert [path for path in logs if b"database is locked" in path.read_bytes()] == []


def test_parsing_a_file_again_makes_no_new_version(runs: dict[str, DagRun], workspace: Workspace) -> None:
    # A version that no run has used would be replaced without a trace.
    runs["too_many"].ends_as("failed")
    dag = workspace.client.dag("probe")
    since = datetime.now(UTC)
    workspace.client.request("PUT", f"/parseDagFile/{dag['file_token']}")
    workspace.airflow.wait_for_dags(["probe"], since=since)
    for dag in workspace.client.request("GET", "/dags")["dags"]:
        versions = workspace.client.request("GET", f"/dags/{dag['dag_id']}/dagVersions")
        assert versions["total_entries"] == 1, dag["dag_id"]


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Airflow's own
@pytest.mark.parametrize("folder", [DAGS, Path(__file__).parents[2] / "dags"])
def test_script_folders_are_hidden_from_the_dag_processor(folder: Path) -> None:
    # Without its guess what may be a DAG file, which would hide most scripts as well.
    found = {Path(path).relative_to(folder) for path in list_py_file_paths(folder, safe_mode=False)}
    assert found == {path.relative_to(folder) for path in folder.glob("*.py")}
    assert any(path.parent != folder for path in folder.rglob("*.py"))


def test_no_file_has_an_import_error(workspace: Workspace) -> None:
    assert workspace.client.import_errors() == []
