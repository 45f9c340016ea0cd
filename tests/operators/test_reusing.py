# SPDX-License-Identifier: Apache-2.0
"""A run that an earlier one stands for: what its tasks do, and what they show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from job import Job

from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.exceptions import InvalidValueError
from airflow_parallelrun.operators.reduce import ReduceOperator
from airflow_parallelrun.operators.reusing import is_forced
from airflow_parallelrun.operators.run import NodeOperator

ECHO = """
import os
def run(mini_batch):
    return [os.path.basename(path) for path in mini_batch]
"""
ROWS = "0.txt\n1.txt\n2.txt\n3.txt\n"


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A run that has succeeded."""
    monkeypatch.setenv("AIRFLOW__PARALLELRUN__STORAGE_ROOT", str(tmp_path / "root"))
    job = Job(tmp_path, ECHO)
    job.output = None
    for node in job.split():
        NodeOperator(task_id="predict.run", node=node).execute(job.context)
    job.reduce()
    return job


def test_no_node_is_started_and_the_result_is_the_earlier_ones(
    first: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    second = first.again("manual__2")
    assert second.split() == []
    earlier = first.xcoms["plan"]
    output = str(Path(first.xcoms["output"]).parent)
    result = f"{output}/job_result.json"
    assert second.xcoms["plan"] == {**earlier, "nodes": 0, "reused_from": "manual__1", "result": result}
    told = second.reduce()
    assert told == {**json.loads(Path(result).read_text()), "reused_from": "manual__1"}
    assert second.xcoms["output"] == first.xcoms["output"]
    assert Path(second.xcoms["output"]).read_text() == ROWS
    log = capsys.readouterr().out
    assert "Nothing is run: run manual__1 has come to the same" in log
    assert "Run manual__1 has come to the same, and its result is taken over" in log


def test_a_folder_that_was_asked_for_gets_a_copy(first: Job, tmp_path: Path) -> None:
    second = first.again("manual__2")
    second.output = str(tmp_path / "asked")
    assert second.split() == []
    told = second.reduce()
    assert second.xcoms["output"] == told["output_file"] == str(tmp_path / "asked" / "parallel_run_step.txt")
    assert Path(second.xcoms["output"]).read_text() == ROWS
    assert told["reused_from"] == "manual__1"
    assert "redrive_of" not in told


def test_links_and_lineage_lead_to_what_there_is(first: Job) -> None:
    second = first.again("manual__2")
    split = second.task()
    split.execute(second.context)
    assert split.results == {"Job result": None, "Earlier run": "manual__1"}
    reduce = ReduceOperator(task_id="predict.reduce", split_task_id="predict.split")
    reduce.execute(second.context)
    output = first.xcoms["output"]
    result = str(Path(output).with_name("job_result.json"))
    assert reduce.results == {"Earlier run": "manual__1", "Job result": result, "Output": output}
    lineage = reduce.get_openlineage_facets_on_complete(None)
    assert [each.name for each in lineage.outputs] == [output]
    (facet,) = lineage.run_facets.values()
    assert (facet.planId, facet.verdict) == (first.xcoms["plan"]["plan_id"], "succeeded")


@pytest.mark.parametrize(
    ("conf", "told"),
    [({"force": True}, "force is set"), ({"force": False}, None), ({"force": None}, None)],
)
def test_a_run_can_be_told_to_do_it_all_again(
    first: Job, capsys: pytest.CaptureFixture[str], conf: dict[str, Any], told: str | None
) -> None:
    second = first.again("manual__2", **conf)
    assert len(second.split()) == (1 if told else 0)
    assert ("Nothing is reused: force is set." in capsys.readouterr().out) is bool(told)


def test_why_nothing_is_reused_is_told_in_one_line(first: Job, capsys: pytest.CaptureFixture[str]) -> None:
    second = first.again("manual__2")
    second.arguments = ["--factor", 4]
    assert len(second.split()) == 1
    assert second.xcoms["plan"]["reused_from"] is None
    line = "Nothing is reused: of the last success, run manual__1, it differs in arguments."
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("value", ["true", 1, "yes", []])
def test_force_is_true_or_false(value: object) -> None:
    with pytest.raises(InvalidValueError, match="force must be true or false"):
        is_forced({"force": value})


def test_a_slip_in_its_name_is_found(first: Job) -> None:
    with pytest.raises(AirflowFailException, match=r"unknown parameter 'froce'.* did you mean 'force'"):
        first.again("manual__2", froce=True).split()


def test_a_result_that_is_gone_meanwhile_is_looked_for_again(first: Job) -> None:
    second = first.again("manual__2")
    second.split()
    Path(second.xcoms["plan"]["result"]).unlink()
    with pytest.raises(
        AirflowFailException, match=r"result of run manual__1.* is gone.* Clear predict\.split"
    ):
        second.reduce()


def test_a_step_without_anything_new_is_skipped(first: Job) -> None:
    second = first.again("manual__2")
    second.inputs = [FileDataset.from_files("input", only_new=True).as_mount().to_dict()]
    for node in second.split():
        NodeOperator(task_id="predict.run", node=node).execute(second.context)
    second.reduce()
    third = second.again("manual__3")
    with pytest.raises(AirflowSkipException, match=r"nothing new in .*input.* have processed all 4 files"):
        third.split()
    assert third.xcoms == {}
    fourth = second.again("manual__4", force=True)
    assert len(fourth.split()) == 1
