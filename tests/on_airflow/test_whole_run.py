# SPDX-License-Identifier: Apache-2.0
"""What a run leaves: its output, what the tasks hand on, and what a person sees of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import FILES

if TYPE_CHECKING:
    from harness import DagRun, Workspace


@pytest.fixture(scope="module")
def runs(workspace: Workspace) -> dict[str, DagRun]:
    """Run one to its end with output, one without."""
    return {
        "append": workspace.run("probe", {"nodes": 2, "batch_size": 3}),
        "summary": workspace.run("summary"),
    }


def test_the_output_file_reaches_the_next_task(runs: dict[str, DagRun]) -> None:
    run = runs["append"]
    assert run.ends_as("success") == {
        "predict.split": "success",
        "predict.run[0]": "success",
        "predict.run[1]": "success",
        "predict.reduce": "success",
        "after": "success",
    }
    assert run.rows() == [str(number) for number in range(FILES)]
    assert run.xcom("after") == str(run.output / "rows.txt")


def test_split_hands_on_pointers_and_reduce_the_result(runs: dict[str, DagRun]) -> None:
    run = runs["append"]
    run.ends_as("success")
    plan = run.xcom("predict.split", "plan")
    assert set(plan) == {"run_dir", "plan_id", "nodes", "reused_from"}
    assert plan["nodes"] == 2
    assert run.xcom("predict.split") == [{"node": index, "run_dir": plan["run_dir"]} for index in range(2)]
    result = run.xcom("predict.reduce")
    assert result["output_file"] == run.xcom("predict.reduce", "output")


def test_a_node_shows_its_progress_and_says_what_it_did(runs: dict[str, DagRun]) -> None:
    run = runs["append"]
    run.ends_as("success")
    done = 0
    for node in (0, 1):
        progress = run.client.task_state("probe", run.run_id, "predict.run", node, "progress")
        assert progress["node"] == node
        assert progress["mini_batches_total"] == 3
        done += progress["mini_batches_done"]
        title = run.instances()[f"predict.run[{node}]"]["rendered_map_index"]
        assert title.startswith(f"node {node} · {progress['mini_batches_done']} mini-batch")
        log = run.log(f"predict.run[{node}]")
        assert f"node {node}-1 of 2, round" in log
        assert f"node {node}-1 finished" in log
    assert done == 3


def test_without_append_row_the_output_is_the_folder(runs: dict[str, DagRun]) -> None:
    run = runs["summary"]
    run.ends_as("success")
    assert run.xcom("predict.reduce", "output") == str(run.output)


def test_the_task_log_shows_the_script_at_its_logging_level(runs: dict[str, DagRun]) -> None:
    for run in runs.values():
        run.ends_as("success")
    assert "a detail of init" in runs["summary"].log("predict.run[0]")
    assert "a detail" not in "".join(runs["append"].log(f"predict.run[{node}]") for node in (0, 1))
