# SPDX-License-Identifier: Apache-2.0
"""What is done again, and what is kept, when people clear tasks.

Every step clears tasks by REST and then looks at all states, the script's calls, the rows and the result.
Where a log says what to clear, that very call is made. The tests of one run build on each other.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from harness import FILES, DagRun, eventually

if TYPE_CHECKING:
    from harness import Workspace

ITEMS = [str(number) for number in range(FILES)]


@pytest.fixture(scope="module")
def runs(workspace: Workspace) -> dict[str, DagRun]:
    """Trigger everything at once, so that the tests share the waiting."""
    private = workspace.root / "changing"
    private.mkdir()
    for item in ITEMS:
        (private / item).touch()
    return {
        "judged": workspace.run("clearing", None, "hold-3", "hold-7", "fail-3"),
        "lost": dated(workspace, "hold-3", "hold-7"),
        "changing": workspace.run("clearing", {"files": str(private)}),
    }


def dated(workspace: Workspace, *flags: str) -> DagRun:
    """Trigger a run that has a logical date, by which the command knows it."""
    run = DagRun(workspace, "clearing", "dated")
    run.folder.mkdir(parents=True)
    for flag in flags:
        run.tell(flag)
    body = {"dag_run_id": run.run_id, "logical_date": "2026-01-02T03:04:05.678901Z"}
    run.client.request("POST", f"/dags/{run.dag_id}/dagRuns", json=body)
    return run


@pytest.fixture(scope="module")
def judged(runs: dict[str, DagRun]) -> DagRun:
    """Return the run that has exceeded its threshold: 3 failed and 7 was not finished."""
    run = runs["judged"]
    run.is_called_with(*ITEMS)
    run.untell("hold-3")
    assert run.ends_as("failed") == states(reduce="failed", after="upstream_failed")
    assert run.calls() == Counter(ITEMS)
    counts = run.result()["counts"]
    assert (counts["succeeded"], counts["failed"], counts["unprocessed"]) == (6, 1, 1)
    return run


@pytest.fixture(scope="module")
def lost(runs: dict[str, DagRun]) -> DagRun:
    """Return the run that has lost node 0 for good, which was in item 3."""
    run = runs["lost"]
    run.is_called_with(*ITEMS)
    eventually(lambda: run.committed("0-1") == {0, 1, 2}, "items 0 to 2 are committed")
    run.node("0-1").kill()
    run.untell("hold-3")
    run.untell("hold-7")
    expected = states(**{"run[0]": "failed"}, reduce="failed", after="upstream_failed")
    assert run.ends_as("failed") == expected
    return run


def states(**changed: str) -> dict[str, str]:
    """Return the states of a run that succeeded, but for these."""
    names = {"split": "predict.split", "reduce": "predict.reduce", "after": "after"}
    names |= {f"run[{index}]": f"predict.run[{index}]" for index in range(2)}
    return {label: changed.get(name, "success") for name, label in names.items()}


def last_log(run: DagRun, label: str) -> str:
    """Return the log of the latest try."""
    return run.log(label, run.instances()[label]["try_number"])


def message(run: DagRun, label: str) -> str:
    """Return what the log of a task's last try says to people: its lines, and the exception's text."""
    lines = [json.loads(line) for line in last_log(run, label).splitlines()]
    errors = [detail["exc_value"] for line in lines for detail in line.get("error_detail") or ()]
    return "\n".join([*(str(line["event"]) for line in lines), *errors])


def make_the_call(run: DagRun, label: str) -> None:
    """Make the REST call that the log of a task's last try gives."""
    text = message(run, label)
    found = re.search(r"REST: POST /api/v2(\S+) (\{.*\})$", text, re.MULTILINE)
    assert found, text
    assert ("command: " in text) == (run.run_id == "dated")
    run.client.request("POST", found[1], json=json.loads(found[2]))


def run_the_command(run: DagRun, label: str) -> None:
    """Run the command that the log of a task's last try gives."""
    found = re.search(r"command: (airflow .+)$", message(run, label), re.MULTILINE)
    assert found
    command = [sys.executable, "-m", *shlex.split(found[1])]
    subprocess.run(command, env=run.workspace.airflow.environment(), check=True, capture_output=True)


def agrees(run: DagRun, round_: int, verdict: str = "succeeded") -> dict[str, Any]:
    """Check the published result, and return its counts."""
    result = run.result()
    assert (result["verdict"], result["round"], result["run_dir"]) == (verdict, round_, str(run.run_dir))
    counts: dict[str, Any] = result["counts"]
    return counts


# A threshold was exceeded: run is green, reduce is red.


def test_reduce_says_what_happened_and_what_to_do(judged: DagRun) -> None:
    log = last_log(judged, "predict.reduce")
    assert "UnreadableDigitError: no digit in 3" in log
    assert "clear predict.run with its downstream tasks, also where it is green" in log
    assert "the 2 mini-batches that failed or were not processed" in log
    assert not (judged.output / "rows.txt").exists()


def test_reduce_alone_comes_to_the_same_verdict(judged: DagRun) -> None:
    before = judged.result()
    judged.clear("predict.reduce")
    assert judged.ends_as("failed") == states(reduce="failed", after="upstream_failed")
    assert judged.instances()["predict.reduce"]["try_number"] == 2
    after = judged.result()
    assert {**after, "durations": None} == {**before, "durations": None}
    assert judged.calls() == Counter(ITEMS)


def test_the_nodes_redo_what_failed_and_what_was_left_and_nothing_else(judged: DagRun) -> None:
    """The abort of the first round is still there, and stops nobody."""
    judged.untell("fail-3")
    judged.untell("hold-7")
    assert (judged.run_dir / "control" / "0" / "abort.json").exists()
    make_the_call(judged, "predict.reduce")
    assert judged.ends_as("success") == states()
    assert judged.calls() - Counter(ITEMS) == Counter({"3": 1, "7": 1})
    assert judged.rows() == ITEMS
    assert agrees(judged, 1)["succeeded"] == FILES
    assert not (judged.output / "failed_items.jsonl").exists()


def test_a_node_that_succeeded_has_nothing_to_do(judged: DagRun) -> None:
    before = judged.calls()
    judged.clear(("predict.run", 0), downstream=True)
    assert judged.ends_as("success") == states()
    tries = {label: each["try_number"] for label, each in judged.instances().items()}
    assert (tries["predict.run[0]"], tries["predict.run[1]"], tries["after"]) == (3, 2, 2)
    assert judged.calls() == before
    assert judged.rows() == ITEMS
    assert agrees(judged, 2)["succeeded"] == FILES


def test_a_file_of_another_origin_is_never_replaced(judged: DagRun) -> None:
    rows = judged.output / "rows.txt"
    rows.unlink()
    rows.write_text("mine")
    judged.clear("predict.reduce", downstream=True)
    assert judged.ends_as("failed") == states(reduce="failed", after="upstream_failed")
    assert rows.read_text() == "mine"
    log = last_log(judged, "predict.reduce")
    assert "rows.txt' exists and was not written by this run" in log
    assert "Move it away, or choose another output folder" in log
    rows.unlink()
    make_the_call(judged, "predict.reduce")
    assert judged.ends_as("success") == states()
    assert judged.rows() == ITEMS
    assert agrees(judged, 2)["rows"] == FILES


def test_split_alone_leaves_a_plan_that_nobody_has_done_and_says_so(judged: DagRun) -> None:
    before, calls = judged.run_dir, judged.calls()
    judged.clear("predict.split")
    assert judged.ends_as("success") == states()
    assert judged.run_dir != before
    assert judged.calls() == calls
    log = last_log(judged, "predict.split")
    assert "predict.run and predict.reduce: not cleared" in log
    # Its presence would say that the plan's output is there.
    assert not (judged.output / "job_result.json").exists()
    make_the_call(judged, "predict.split")
    assert judged.ends_as("success") == states()
    assert judged.calls() - calls == Counter(ITEMS)
    assert judged.rows() == ITEMS
    assert agrees(judged, 0)["succeeded"] == FILES


# A node was lost for good: its task is red.


def test_a_node_without_downstream_works_and_says_that_nobody_judges(lost: DagRun) -> None:
    assert "node 0-1 was lost without a word" in last_log(lost, "predict.reduce")
    assert agrees(lost, 0, "failed")["unprocessed"] == 1
    lost.clear(("predict.run", 0))
    assert lost.ends_as("failed") == states(reduce="failed", after="upstream_failed")
    assert lost.calls() - Counter(ITEMS) == Counter({"3": 1})
    assert agrees(lost, 0, "failed")["unprocessed"] == 1
    assert not (lost.output / "rows.txt").exists()
    assert "predict.reduce has not been cleared" in last_log(lost, "predict.run[0]")
    run_the_command(lost, "predict.run[0]")
    assert lost.ends_as("success") == states()
    assert lost.calls() - Counter(ITEMS) == Counter({"3": 1})
    assert lost.rows() == ITEMS
    assert agrees(lost, 1)["succeeded"] == FILES


def test_a_green_node_without_downstream_changes_nothing(lost: DagRun) -> None:
    calls, result = lost.calls(), lost.result()
    lost.clear(("predict.run", 1))
    assert lost.ends_as("success") == states()
    assert (lost.calls(), lost.rows(), lost.result()) == (calls, ITEMS, result)


# The input has changed.


def test_split_with_downstream_begins_anew_and_no_old_row_survives(runs: dict[str, DagRun]) -> None:
    run = runs["changing"]
    assert run.ends_as("success") == states()
    assert run.rows() == ITEMS
    before, folder = run.run_dir, run.workspace.root / "changing"
    for item in ITEMS:
        (folder / item).unlink()
    (folder / "9").touch()
    run.clear("predict.split", downstream=True)
    # One mini-batch needs but one node.
    assert run.ends_as("success") == states(**{"run[1]": "removed"})
    assert run.run_dir.parent == before.parent
    assert run.run_dir != before
    assert run.rows() == ["9"]
    assert run.calls() == Counter([*ITEMS, "9"])
    assert agrees(run, 0)["items"] == 1


def test_the_whole_run_begins_anew(runs: dict[str, DagRun]) -> None:
    run = runs["changing"]
    for item in ("0", "1"):
        (run.workspace.root / "changing" / item).touch()
    path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/clear"
    run.client.request("POST", path, json={"dry_run": False, "only_failed": False})
    assert run.ends_as("success") == states()
    assert run.rows() == ["0", "1", "9"]
    assert agrees(run, 0)["items"] == 3
