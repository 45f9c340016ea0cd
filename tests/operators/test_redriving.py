# SPDX-License-Identifier: Apache-2.0
"""A run that redrives an earlier one: how it is asked for, what it does, and when it is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from job import Job

from airflow_parallelrun.exceptions import InvalidValueError
from airflow_parallelrun.operators.redriving import asked_for
from airflow_parallelrun.operators.run import NodeOperator

if TYPE_CHECKING:
    from collections.abc import Callable

FAILS = """
import os, sys
def run(mini_batch):
    name = os.path.basename(mini_batch[0])
    if name in ("1.txt", "3.txt"):
        raise KeyError("no such digit")
    return [name]
"""
MENDED = FAILS.replace("raise KeyError", "return [name + ' mended']; raise KeyError")
FIRST, SECOND, THIRD = "manual__1", "manual__2", "manual__3"


@pytest.fixture
def first(tmp_path: Path) -> Job:
    """A run that has succeeded with two failures; one thread of the story."""
    job = Job(tmp_path, FAILS, error_threshold=2, run_max_try=1)
    run_nodes(job, job.split())
    job.reduce()
    end(job)
    return job


def run_nodes(job: Job, nodes: list[dict[str, Any]]) -> None:
    for node in nodes:
        NodeOperator(task_id="predict.run", node=node).execute(job.context)


def end(job: Job, **states: str | None) -> None:
    """Let Airflow say that all tasks have ended."""
    done = {"split": "success", "run_0": "success", "reduce": "success", **states}
    job.states = {f"predict.{name}": state for name, state in done.items()}


def mend(job: Job) -> None:
    (job.folder / "score.py").write_text(MENDED)


def rows(job: Job) -> list[str]:
    return (job.folder / "out" / "parallel_run_step.txt").read_text().splitlines()


def refused(job: Job, message: str) -> None:
    before = (job.folder / "out" / "job_result.json").stat()
    with pytest.raises(AirflowFailException, match=message):
        job.split()
    assert (job.folder / "out" / "job_result.json").stat() == before
    assert "plan" not in job.xcoms


# How it is asked for.


def test_a_run_is_redriven_when_its_conf_says_so() -> None:
    assert asked_for({"redrive_of": FIRST, "other": 3}, SECOND) == FIRST
    assert asked_for({}, SECOND) is None
    assert asked_for({"redrive_of": None}, SECOND) is None


@pytest.mark.parametrize("value", ["", "  ", 7, True, [FIRST], {"run": FIRST}, SECOND])
def test_what_is_no_earlier_run(value: object) -> None:
    with pytest.raises(
        InvalidValueError, match="redrive_of must be the run id of an earlier run of this DAG"
    ):
        asked_for({"redrive_of": value}, SECOND)


@pytest.mark.parametrize("key", ["redriveof", "redrive-of", "Redrive_Of", "redrive_off"])
def test_a_slip_in_the_key_does_not_start_everything_anew(first: Job, key: str) -> None:
    refused(first.again(SECOND, **{key: FIRST}), f"unknown parameter {key!r} .*; did you mean 'redrive_of'?")


# What it does.


def test_what_failed_is_run_again_with_the_code_of_today(
    first: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    mend(first)
    second = first.again(SECOND, redrive_of=FIRST)
    nodes = second.split(run_max_try=7)
    log = capsys.readouterr().out
    assert f"Redrive of run {FIRST}: 2 of its 4 mini-batches (2 items) are run again, on 1 nodes." in log
    assert "stay as they were" not in log
    assert nodes == [{"node": 0, "run_dir": first.xcoms["plan"]["run_dir"]}]
    assert second.xcoms["plan"] == {**first.xcoms["plan"], "reused_from": FIRST}
    assert rows(first) == ["0.txt", "2.txt"]
    run_nodes(second, nodes)
    result = second.reduce()
    assert f"A redrive of run {FIRST}" in capsys.readouterr().out
    assert rows(first) == ["0.txt", "1.txt mended", "2.txt", "3.txt mended"]
    assert (result["verdict"], result["round"], result["redrive_of"]) == ("succeeded", 1, FIRST)
    assert second.xcoms["output"] == first.xcoms["output"]


def test_what_a_redrive_does_not_change_is_said(first: Job, capsys: pytest.CaptureFixture[str]) -> None:
    first.again(SECOND, redrive_of=FIRST).split(error_threshold=0, mini_batch_size=3, node_count=5)
    told = f"These stay as they were in run {FIRST}: error_threshold, mini_batch_size"
    assert told in capsys.readouterr().out


def test_reduce_says_how_to_redrive(first: Job, capsys: pytest.CaptureFixture[str]) -> None:
    first.reduce()
    assert f'trigger the DAG with the conf {{"redrive_of": "{FIRST}"}}' in capsys.readouterr().out
    second = first.again(SECOND, redrive_of=FIRST)
    mend(first)
    run_nodes(second, second.split())
    second.reduce()
    assert "trigger the DAG" not in capsys.readouterr().out


def test_where_nothing_failed_there_are_no_nodes(first: Job, capsys: pytest.CaptureFixture[str]) -> None:
    mend(first)
    second = first.again(SECOND, redrive_of=FIRST)
    run_nodes(second, second.split())
    second.reduce()
    end(second)
    third = first.again(THIRD, redrive_of=SECOND)
    assert third.split() == []
    assert third.xcoms["plan"] == {**first.xcoms["plan"], "nodes": 0, "reused_from": SECOND}
    result = third.reduce()
    assert (result["verdict"], result["round"], result["redrive_of"]) == ("succeeded", 1, SECOND)


def test_a_redrive_can_be_redriven(first: Job) -> None:
    second = first.again(SECOND, redrive_of=FIRST)
    run_nodes(second, second.split())
    assert second.reduce()["counts"]["failed"] == 2
    end(second)
    mend(first)
    for number, earlier in enumerate((SECOND, FIRST)):  # the first run is the same one, as it stands now
        third = first.again(f"manual__{3 + number}", redrive_of=earlier)
        run_nodes(third, third.split())
        assert third.reduce()["counts"]["failed"] == 0
        end(third)


def test_split_that_is_cleared_asks_again(first: Job) -> None:
    second = first.again(SECOND, redrive_of=FIRST)
    run_nodes(second, second.split())
    mend(first)
    run_nodes(second, second.split())
    assert second.reduce()["verdict"] == "succeeded"
    records = sorted(path.name for path in Path(first.xcoms["plan"]["run_dir"], "redrives").iterdir())
    assert records == ["1-1", "2-1"]


def test_a_redrive_that_got_nothing_done_says_what_to_clear(first: Job) -> None:
    (first.folder / "score.py").write_text("def init():\n    raise OSError('away')\n" + FAILS)
    second = first.again(SECOND, redrive_of=FIRST)
    nodes = second.split()
    with pytest.raises(Exception, match="OSError: away"):
        run_nodes(second, nodes)
    second.context["dag"].task_ids = []
    with pytest.raises(
        AirflowFailException, match="2 mini-batches were to be run again and were not"
    ) as caught:
        second.reduce()
    assert "clear predict.run with its downstream tasks" in str(caught.value)
    assert "A changed script or parameter counts when the redrive is asked for anew" in str(caught.value)
    assert rows(first) == ["0.txt", "2.txt"]
    assert second.xcoms["return_value"]["redrive_of"] == FIRST


# When it is refused.


def test_a_run_that_is_not_there(first: Job) -> None:
    message = "'manual__9' .* cannot be redriven: the DAG 'nightly' has no such run"
    refused(first.again(SECOND, redrive_of="manual__9"), message)


def lacks_the_step(job: Job) -> None:
    job.states = {"predict_all.split": "success"}


def is_cleared(job: Job) -> None:
    end(job, run_0=None)


def reduces(job: Job) -> None:
    end(job, reduce="running")


def planned_nothing(job: Job) -> None:
    end(job, split="failed", reduce="failed")
    job.xcoms.clear()


def is_gone(job: Job) -> None:
    shutil.rmtree(job.xcoms["plan"]["run_dir"])


def has_lost_its_output(job: Job) -> None:
    (job.folder / "out" / "parallel_run_step.txt").unlink()


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        (lacks_the_step, r"it has no task 'predict\.split'\. Redrive it with the version of the DAG"),
        (is_cleared, r"it is still going on: predict\.run_0 is not started"),
        (reduces, r"it is still going on: predict\.reduce is running\. Finish that run first"),
        (planned_nothing, r"predict\.split ended as failed and left no plan"),
        (is_gone, r"its run directory '.+' is gone\. Trigger the DAG without redrive_of\."),
        (has_lost_its_output, r"the result of its last round is not in '.+/out'"),
    ],
)
def test_a_run_that_cannot_be_redriven(first: Job, happens: Callable[[Job], None], message: str) -> None:
    happens(first)
    refused(first.again(SECOND, redrive_of=FIRST), message)


def test_a_run_that_did_not_succeed(tmp_path: Path) -> None:
    job = Job(tmp_path, FAILS, run_max_try=1)
    run_nodes(job, job.split())
    job.context["dag"].task_ids = []
    with pytest.raises(AirflowFailException):
        job.reduce()
    end(job, reduce="failed")
    refused(job.again(SECOND, redrive_of=FIRST), r"it failed: \d items failed, error_threshold is 0.*Finish")


def test_a_run_that_another_one_redrives(first: Job) -> None:
    """Its nodes wait for a slot, and have not left a trace in the run directory."""
    second = first.again(SECOND, redrive_of=FIRST)
    nodes = second.split()
    end(second, run_0="queued", reduce=None)
    third = first.again(THIRD, redrive_of=FIRST)
    refused(
        third, r"run 'manual__2' is redriving it: predict\.run_0 is queued\. Wait until that one has ended"
    )
    run_nodes(second, nodes)
    end(second, run_0="success", reduce="failed")
    refused(third, r"the redrive that nightly/manual__2/predict asked for at \S+Z has not ended")
    second.reduce()
    assert third.split() == nodes
