# SPDX-License-Identifier: Apache-2.0
"""Runs that know of earlier ones: one that an earlier one stands for, and one for which nothing is new.

The runs of both DAGs follow one another; the tests share the waiting.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness import DagRun, Workspace

DONE = {
    "predict.split": "success",
    "predict.run[0]": "success",
    "predict.reduce": "success",
    "after": "success",
}
REUSED = {
    "predict.split": "success",
    "predict.run": "skipped",
    "predict.reduce": "success",
    "after": "success",
}
SKIPPED = dict.fromkeys(("predict.split", "predict.run", "predict.reduce", "after"), "skipped")


@pytest.fixture(scope="module")
def runs(workspace: Workspace) -> dict[str, list[DagRun]]:
    """Have two runs of each DAG, one after the other."""
    for folder in ("reused", "growing"):
        (workspace.root / folder).mkdir()
        for name in ("a", "b"):
            (workspace.root / folder / name).touch()
    made: dict[str, list[DagRun]] = {"reusing": [], "only_new": []}
    for _ in range(2):
        pair = {dag_id: workspace.run(dag_id) for dag_id in made}
        for dag_id, run in pair.items():
            run.ends_as("success")
            made[dag_id].append(run)
    return made


def rows(run: DagRun) -> list[str]:
    return sorted(Path(run.xcom("predict.reduce", "output")).read_text().split())


def links(run: DagRun, label: str) -> dict[str, str | None]:
    path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{label}/links"
    return dict(run.client.request("GET", path, params={"map_index": -1})["extra_links"])


def test_an_output_that_nobody_gave_a_folder_is_in_the_storage_root(
    runs: dict[str, list[DagRun]], workspace: Workspace
) -> None:
    first = runs["reusing"][0]
    assert first.states() == DONE
    folder = workspace.root / "storage" / "outputs" / "reusing" / first.run_id / "predict"
    assert first.xcom("after") == str(folder / "parallel_run_step.txt")
    assert rows(first) == ["a", "b"]


def test_the_same_again_starts_no_node(runs: dict[str, list[DagRun]], workspace: Workspace) -> None:
    first, second = runs["reusing"]
    assert second.states() == REUSED
    assert second.xcom("after") == first.xcom("after")
    assert second.xcom("predict.split", "plan")["reused_from"] == first.run_id
    assert second.xcom("predict.reduce")["reused_from"] == first.run_id
    for label in ("predict.split", "predict.reduce"):
        assert f"un {first.run_id} has come to the same" in second.log(label)
        page = f"{workspace.airflow.url}/dags/reusing/runs/{first.run_id}"
        assert links(second, label)["Earlier run"] == page


def test_without_anything_new_all_is_skipped(runs: dict[str, list[DagRun]]) -> None:
    first, second = runs["only_new"]
    assert (first.states(), rows(first)) == (DONE, ["a", "b"])
    assert second.states() == SKIPPED
    assert "there is nothing new in" in second.log("predict.split")
