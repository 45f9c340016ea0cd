# SPDX-License-Identifier: Apache-2.0
"""A run whose conf names an earlier one runs what failed there once more, into the same output.

The tests of one story build on each other. The script's calls tell what was run, the rows what counts.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from harness import DAGS, FILES, DagRun, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Workspace

ITEMS = [str(number) for number in range(FILES)]


@pytest.fixture(scope="module")
def code(workspace: Workspace) -> Path:
    """Return the script, where the DAG finds it and a test may change it."""
    folder = workspace.root / "code"
    folder.mkdir()
    shutil.copy(DAGS / "scripts" / "probe.py", folder)
    return folder / "probe.py"


@pytest.fixture(scope="module")
def runs(workspace: Workspace, code: Path) -> dict[str, DagRun]:
    """Trigger everything that others redrive at once, so that the tests share the waiting."""
    return {
        "first": workspace.run("redriving", None, "fail-3", "fail-5"),
        "other": workspace.run("redriving", None, "fail-2"),
        "failed": workspace.run("redriving", None, "fail"),
        "held": workspace.run("redriving", None, "hold-7"),
    }


def redrive(run: DagRun, *flags: str) -> DagRun:
    """Trigger a run that redrives this one."""
    return run.workspace.run(run.dag_id, {"redrive_of": run.run_id}, *flags)


def states(**changed: str) -> dict[str, str]:
    """Return the states of a run that succeeded, with one node, but for these."""
    names = {
        "split": "predict.split",
        "run[0]": "predict.run[0]",
        "reduce": "predict.reduce",
        "after": "after",
    }
    return {label: changed.get(name, "success") for name, label in names.items()}


def without(*items: str) -> list[str]:
    return [item for item in ITEMS if item not in items]


def inode(run: DagRun) -> int:
    return (run.output / "rows.txt").stat().st_ino


def message(run: DagRun, label: str) -> str:
    """Return what the log of a task's last try says to people: its lines, and the exception's text."""
    text = run.log(label, run.instances()[label]["try_number"])
    lines = [json.loads(line) for line in text.splitlines()]
    errors = [detail["exc_value"] for line in lines for detail in line.get("error_detail") or ()]
    return "\n".join([*(str(line["event"]) for line in lines), *errors])


# A run that succeeded with errors.


@pytest.fixture(scope="module")
def first(runs: dict[str, DagRun]) -> DagRun:
    """Return the run that was told to fail for 3 and 5, and has succeeded all the same."""
    run = runs["first"]
    run.ends_as("success")
    assert run.rows() == without("3", "5")
    told = f'trigger the DAG with the conf {{"redrive_of": "{run.run_id}"}}'
    assert told in message(run, "predict.reduce")
    return run


@pytest.fixture(scope="module")
def second(first: DagRun) -> DagRun:
    """Redrive it; 3 succeeds now, and 5 still fails."""
    before, result = inode(first), first.result()
    run = redrive(first, "hold-3", "fail-5")
    run.is_called_with("3", "5")
    # Until there is a new verdict everybody finds the old result, whole.
    eventually(
        lambda: sorted(state for label, state in run.states().items() if "run[" in label)[-1:] == ["success"],
        "one of two nodes has ended",
    )
    assert (first.rows(), first.result(), inode(first)) == (without("3", "5"), result, before)
    run.untell("hold-3")
    assert run.ends_as("success") == {**states(), "predict.run[1]": "success"}
    assert inode(first) != before
    return run


def test_what_failed_is_run_again_into_the_same_output(first: DagRun, second: DagRun) -> None:
    assert first.rows() == without("5")
    assert first.calls() == Counter(ITEMS)
    assert second.calls() == Counter(["3", "5"])
    assert not second.output.exists()
    plan, earlier = second.xcom("predict.split", "plan"), first.xcom("predict.split", "plan")
    assert plan == {**earlier, "reused_from": first.run_id}
    assert second.xcom("predict.reduce", "output") == first.xcom("predict.reduce", "output")
    result = second.xcom("predict.reduce")
    assert (result["redrive_of"], result["round"], result["counts"]["failed"]) == (first.run_id, 1, 1)
    assert first.result() == {name: value for name, value in result.items() if name != "redrive_of"}


def test_a_cleared_node_goes_on_with_the_redrive(first: DagRun, second: DagRun) -> None:
    second.untell("fail-5")
    second.clear("predict.run", downstream=True)
    assert second.ends_as("success") == {**states(), "predict.run[1]": "success"}
    assert first.rows() == ITEMS
    assert second.calls() == Counter(["3", "5", "5"])
    assert (first.result()["verdict"], first.result()["round"]) == ("succeeded", 2)


def test_where_nothing_failed_no_node_is_started(first: DagRun, second: DagRun) -> None:
    """Also the run that is redriven is a redrive itself."""
    assert first.rows() == ITEMS
    run = redrive(second)
    found = run.ends_as("success")
    ended = dict.fromkeys(("predict.split", "predict.reduce", "after"), "success")
    assert found == {**ended, "predict.run": "skipped"}
    assert run.xcom("predict.split", "plan")["reused_from"] == second.run_id
    assert run.xcom("predict.reduce")["verdict"] == "succeeded"
    assert run.xcom("predict.reduce", "output") == first.xcom("predict.reduce", "output")
    assert (first.rows(), run.calls()) == (ITEMS, Counter())


# Another script.


def test_a_redrive_that_gets_nothing_done_is_red_and_keeps_the_output(
    runs: dict[str, DagRun], code: Path
) -> None:
    other = runs["other"]
    other.ends_as("success")
    before = other.rows()
    assert before == without("2")
    run = redrive(other, "fail-init", "fail-2")
    assert run.ends_as("failed") == states(**{"run[0]": "failed"}, reduce="failed", after="upstream_failed")
    told = message(run, "predict.reduce")
    assert "1 mini-batches were to be run again and were not (2)" in told
    assert "FileNotFoundError: the weights are not there" in told
    assert (other.rows(), other.result()["verdict"]) == (before, "succeeded with errors")

    # What it says is done: the script is repaired, and the redrive asked for anew.
    assert re.search(r"A changed script or parameter counts .* clear predict\.split instead", told)
    text = code.read_text()
    code.write_text(text.replace("raise UnreadableDigitError", 'return [f"{name} mended"]; raise Exception'))
    run.untell("fail-init")
    run.clear("predict.split", downstream=True)
    assert run.ends_as("success") == states()
    code.write_text(text)
    assert other.rows() == sorted([*without("2"), "2 mended"])
    assert run.calls() == Counter(["2"])
    assert other.calls() == Counter(ITEMS)


# What is refused.


@pytest.fixture(scope="module")
def refused(runs: dict[str, DagRun]) -> dict[str, DagRun]:
    """Trigger everything that split refuses."""
    runs["failed"].ends_as("failed")
    runs["held"].is_called_with("7")
    asked: dict[str, Any] = {
        "unknown": {"redrive_of": "nobody"},
        "no text": {"redrive_of": 7},
        "slip": {"redriveof": runs["failed"].run_id},
        "failed": {"redrive_of": runs["failed"].run_id},
        "held": {"redrive_of": runs["held"].run_id},
    }
    workspace = runs["first"].workspace
    return {name: workspace.run("redriving", conf) for name, conf in asked.items()}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("unknown", "the run 'nobody' (redrive_of) cannot be redriven: the DAG 'redriving' has no such run."),
        ("no text", "redrive_of must be the run id of an earlier run of this DAG, as text, got 7."),
        ("slip", "unknown parameter 'redriveof' in the run's conf; did you mean 'redrive_of'?"),
        ("failed", "cannot be redriven: it failed: 8 items failed, error_threshold is 7."),
        ("held", "cannot be redriven: it is still going on: predict."),
    ],
)
def test_what_cannot_be_redriven(refused: dict[str, DagRun], name: str, told: str) -> None:
    run = refused[name]
    found = run.ends_as("failed")
    assert (found["predict.split"], found["predict.reduce"]) == ("failed", "failed")
    assert told in message(run, "predict.split")
    assert run.calls() == Counter()


def test_the_run_that_was_going_on_was_left_alone(
    runs: dict[str, DagRun], refused: dict[str, DagRun]
) -> None:
    refused["held"].ends_as("failed")
    run = runs["held"]
    run.untell("hold-7")
    run.ends_as("success")
    assert (run.rows(), run.result()["round"]) == (ITEMS, 0)
