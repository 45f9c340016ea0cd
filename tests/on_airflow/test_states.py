# SPDX-License-Identifier: Apache-2.0
"""The colours of split, run, reduce, what stands downstream, and the DAG run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import FILES

if TYPE_CHECKING:
    from harness import DagRun, Workspace


@pytest.fixture(scope="module")
def runs(workspace: Workspace) -> dict[str, DagRun]:
    """Trigger everything at once, so that the tests share the waiting."""
    made = {name: workspace.run(name) for name in ("upstream_fails", "branch_not_taken", "empty_input")}
    made["threshold"] = workspace.run("no_retries", None, "fail")
    # With the default retries: none is used up on what a retry cannot change.
    made["all_fail"] = workspace.run("probe", {"nodes": 2}, "fail-init")
    made["one_lost"] = workspace.run("no_retries", None, "hold")
    made["marked"] = workspace.run("no_retries", None, "hold")
    return made


def test_behind_a_failed_task_reduce_alone_says_why(runs: dict[str, DagRun]) -> None:
    assert runs["upstream_fails"].ends_as("failed") == {
        "before": "failed",
        "predict.split": "upstream_failed",
        "predict.run": "upstream_failed",
        "predict.reduce": "failed",
        "after": "upstream_failed",
    }
    assert "predict.split ended as upstream_failed" in runs["upstream_fails"].log("predict.reduce")


def test_in_a_branch_that_is_not_taken_all_are_skipped(runs: dict[str, DagRun]) -> None:
    assert runs["branch_not_taken"].ends_as("success") == {
        "choose": "success",
        "other": "success",
        "predict.split": "skipped",
        "predict.run": "skipped",
        "predict.reduce": "skipped",
        "after": "skipped",
    }


def test_without_an_item_there_is_no_node_and_split_fails(runs: dict[str, DagRun]) -> None:
    assert runs["empty_input"].ends_as("failed") == {
        "predict.split": "failed",
        "predict.run": "upstream_failed",
        "predict.reduce": "failed",
        "after": "upstream_failed",
    }
    assert "the input has no file" in runs["empty_input"].log("predict.split")
    message = "predict.split ended as failed, so there is nothing to reduce"
    assert message in runs["empty_input"].log("predict.reduce")


def test_above_the_threshold_reduce_alone_is_red_with_the_scripts_exception(runs: dict[str, DagRun]) -> None:
    run = runs["threshold"]
    assert run.ends_as("failed") == {
        "predict.split": "success",
        "predict.run[0]": "success",
        "predict.run[1]": "success",
        "predict.reduce": "failed",
        "after": "upstream_failed",
    }
    titles = [run.instances()[f"predict.run[{node}]"]["rendered_map_index"] for node in (0, 1)]
    assert any("aborted: " in title and "error_threshold" in title for title in titles), titles
    log = run.log("predict.reduce")
    assert "AirflowFailException" in log
    assert "UnreadableDigitError: no digit in " in log


def test_when_all_nodes_fail_each_has_the_scripts_exception(runs: dict[str, DagRun]) -> None:
    run = runs["all_fail"]
    assert run.ends_as("failed") == {
        "predict.split": "success",
        "predict.run[0]": "failed",
        "predict.run[1]": "failed",
        "predict.reduce": "failed",
        "after": "upstream_failed",
    }
    for task in ("predict.run[0]", "predict.run[1]", "predict.reduce"):
        assert "FileNotFoundError: the weights are not there" in run.log(task)
    assert run.instances()["predict.run[0]"]["try_number"] == 1
    assert "EntryScriptInitError: a retry cannot change it" in run.log("predict.run[0]")


def test_a_node_that_is_lost_for_good_leaves_its_share_to_a_person(runs: dict[str, DagRun]) -> None:
    run = runs["one_lost"]
    run.waits_for("predict.run[1]", "running")
    run.node("0-1").kill()
    run.waits_for("predict.run[0]", "failed")
    run.untell("hold")
    assert run.ends_as("failed") == {
        "predict.split": "success",
        "predict.run[0]": "failed",
        "predict.run[1]": "success",
        "predict.reduce": "failed",
        "after": "upstream_failed",
    }
    result = run.result()
    assert result["verdict"] == "failed"
    assert result["counts"]["unprocessed"] > 0
    assert "node 0-1 was lost without a word" in run.log("predict.reduce")


def test_a_run_that_a_person_marks_failed_has_no_verdict_and_can_go_on(runs: dict[str, DagRun]) -> None:
    run = runs["marked"]
    for node in ("0-1", "1-1"):
        run.node(node)
    assert run.mark_failed() == {
        "predict.split": "success",
        "predict.run[0]": "failed",
        "predict.run[1]": "failed",
        "predict.reduce": "skipped",
        "after": "skipped",
    }
    assert not (run.output / "job_result.json").exists()
    run.untell("hold")
    run.clear("predict.run", downstream=True)
    assert set(run.ends_as("success").values()) == {"success"}
    assert run.rows() == [str(number) for number in range(FILES)]
