# SPDX-License-Identifier: Apache-2.0
"""The three tasks over the real engine, with Airflow's context kept in memory."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from job import Job

from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EmptyInputError,
    InterruptedRunError,
    StorageError,
    ThresholdExceededError,
)
from airflow_parallelrun.hooks.settings import read_settings
from airflow_parallelrun.operators.outcome import airflow_outcome

_ECHO = """
import sys
def run(mini_batch):
    return [" ".join(sys.argv[1:])]
"""

_SLOW = """
import time
def run(mini_batch):
    time.sleep(30)
"""

_RAISES = """
def run(mini_batch):
    raise KeyError("no such digit")
"""


def test_a_job_from_end_to_end(tmp_path: Path) -> None:
    job = Job(tmp_path, _ECHO)
    node = job.node()
    node.execute(job.context)
    assert node.title == "node 0 · 4 mini-batches"
    assert job.shown["progress"]["mini_batches_done"] == 4
    result = job.reduce()
    assert job.xcoms["output"] == result["output_file"] == str(tmp_path / "out" / "parallel_run_step.txt")
    assert Path(job.xcoms["output"]).read_text() == "--factor 3 --rate 0.5\n" * 4
    assert set(job.xcoms["plan"]) == {"run_dir", "plan_id", "nodes", "reused_from"}


def test_the_output_of_a_step_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, _ECHO)
    job.output = None
    with pytest.raises(
        AirflowFailException, match=r"output must be a folder .* Set \[parallelrun\] storage_root"
    ):
        job.split()
    monkeypatch.setenv("AIRFLOW__PARALLELRUN__STORAGE_ROOT", str(tmp_path / "root"))
    job.node().execute(job.context)
    job.reduce()
    folder = tmp_path / "root" / "outputs" / "nightly" / "manual__1" / "predict"
    assert job.xcoms["output"] == str(folder / "parallel_run_step.txt")
    assert Path(job.xcoms["output"]).read_text() == "--factor 3 --rate 0.5\n" * 4


def test_an_output_that_comes_to_nothing_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PARALLELRUN__STORAGE_ROOT", str(tmp_path / "root"))
    job = Job(tmp_path, _ECHO)
    task = job.task()
    task.output_folder = None  # as the output of a task that returned nothing is rendered
    with pytest.raises(AirflowFailException, match="output must be the path of a folder, got None"):
        task.execute(job.context)


def test_a_stopped_node_raises(tmp_path: Path) -> None:
    job = Job(tmp_path, _SLOW)
    node = job.node()
    previous = signal.signal(signal.SIGTERM, lambda *_: node.on_kill())
    try:
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(1.5, signal.pthread_kill, (main, signal.SIGTERM)).start()
        with pytest.raises(InterruptedRunError, match="node 0 was asked to stop"):
            node.execute(job.context)
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_node_that_is_stopped_at_the_very_end_raises(tmp_path: Path) -> None:
    job = Job(tmp_path, _ECHO)
    node = job.node()

    def stop_when_finished(key: str, value: Any) -> None:
        if value["state"] == "finished":
            node.on_kill()

    job.state_store.set = stop_when_finished
    with pytest.raises(InterruptedRunError, match="4 of the job's 4 mini-batches"):
        node.execute(job.context)


def test_a_node_that_is_stopped_before_it_starts_raises(tmp_path: Path) -> None:
    job = Job(tmp_path, _ECHO)
    node = job.node()
    node.on_kill()
    with pytest.raises(InterruptedRunError):
        node.execute(job.context)


def test_progress_that_cannot_be_shown_stops_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path, _ECHO)

    def refuse(key: str, value: Any) -> None:
        raise RuntimeError("the database is locked")

    job.state_store.set = refuse
    job.node().execute(job.context)
    assert job.reduce()["output_file"]


def test_an_aborted_node_succeeds_and_says_why_and_reduce_fails(tmp_path: Path) -> None:
    job = Job(tmp_path, _RAISES, run_max_try=1)
    node = job.node()
    node.execute(job.context)
    assert node.title.startswith("node 0 · ")
    assert "aborted: " in node.title
    assert "error_threshold" in node.title
    with pytest.raises(AirflowFailException, match="no such digit") as failed:
        job.reduce()
    assert isinstance(failed.value.__cause__, ThresholdExceededError)


def test_reduce_is_skipped_with_split(tmp_path: Path) -> None:
    job = Job(tmp_path, _ECHO)
    job.states = {"predict.split": "skipped"}
    with pytest.raises(AirflowSkipException, match=r"predict\.split was skipped"):
        job.reduce()


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"predict.split": "failed"}, r"predict\.split ended as failed"),
        ({"predict.split": "upstream_failed"}, r"predict\.split ended as upstream_failed"),
        ({}, r"predict\.split ended as None"),
        ({"predict.split": "success"}, r"predict\.split left no plan"),
    ],
)
def test_reduce_names_split_when_there_is_no_plan(
    tmp_path: Path, states: dict[str, str], message: str
) -> None:
    job = Job(tmp_path, _ECHO)
    job.states = states
    with pytest.raises(AirflowFailException, match=message):
        job.reduce()


def test_more_nodes_than_airflow_can_map_are_refused(tmp_path: Path) -> None:
    job = Job(tmp_path, _ECHO)
    with pytest.raises(AirflowFailException, match=r"at most 1024, .*max_map_length, got 1025"):
        job.split(node_count=1025)


@pytest.mark.parametrize("size", ["0", -5, 1.5, "64MB"])
def test_a_refused_value_names_the_pipeline_parameter(tmp_path: Path, size: object) -> None:
    job = Job(tmp_path, _ECHO)
    message = "the pipeline parameter 'batch_size_param' has a wrong value: mini_batch_size must be"
    with pytest.raises(AirflowFailException, match=message) as failed:
        job.split({"mini_batch_size": "batch_size_param"}, mini_batch_size=size)
    assert isinstance(failed.value.__cause__, ConfigurationError)


def test_what_is_said_to_the_originals_driver_is_in_the_configuration_that_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(tmp_path, _ECHO)
    job.arguments = ["--task_overhead_timeout", 900, "--copy_logs_to_parent", True]
    job.node().execute(job.context)
    job.reduce()
    output = Path(job.xcoms["output"]).read_text()
    assert output == "--task_overhead_timeout 900 --copy_logs_to_parent True\n" * 4
    log = capsys.readouterr().out
    assert "'task_overhead_timeout': 900" in log


def test_a_refused_value_for_the_originals_driver_names_the_pipeline_parameter(tmp_path: Path) -> None:
    job = Job(tmp_path, _ECHO)
    job.arguments = ["--task_overhead_timeout", 0]
    message = "the pipeline parameter 'limit' has a wrong value: --task_overhead_timeout must be"
    with pytest.raises(AirflowFailException, match=message):
        job.split({"--task_overhead_timeout": "limit"})


def test_the_log_has_the_configuration_without_the_values_of_variables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Job(tmp_path, _ECHO, environment_variables={"API_KEY": "xyzzy"}).split()
    log = capsys.readouterr().out
    assert "'mini_batch_size': 1" in log
    assert "API_KEY" in log
    assert "xyzzy" not in log


def test_side_inputs_are_found_by_argument_and_variable(tmp_path: Path) -> None:
    script = """
import os, sys
def run(mini_batch):
    path = os.environ["labels"]
    return [open(path).read() + str(sys.argv[2] == path) for _ in mini_batch]
"""
    job = Job(tmp_path, script)
    (tmp_path / "labels.txt").write_text("labels ")
    job.side_inputs = [FileDataset.from_files("labels.txt").as_named_input("labels").to_dict()]
    job.arguments = ["--labels", {"side_input": "labels"}]
    job.node().execute(job.context)
    job.reduce()
    assert (tmp_path / "out" / "parallel_run_step.txt").read_text().split("\n")[:-1] == ["labels True"] * 4
    assert json.loads(json.dumps(job.xcoms["plan"])) == job.xcoms["plan"]
    job.side_inputs[0]["paths"] = 3
    with pytest.raises(AirflowFailException, match="'words_param' has a wrong value"):
        job.split(origins={"side_inputs[0]": "words_param"})


def test_an_empty_input_fails_at_once(tmp_path: Path) -> None:
    job = Job(tmp_path, _ECHO)
    for file in (tmp_path / "input").iterdir():
        file.unlink()
    with pytest.raises(AirflowFailException, match="the input has no file") as failed:
        job.split()
    assert isinstance(failed.value.__cause__, EmptyInputError)


def test_a_retryable_error_stays_itself() -> None:
    with pytest.raises(StorageError), airflow_outcome():
        raise StorageError("/x", "no space left")


def test_settings_come_from_airflows_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARALLELRUN_MODELS_ROOT", "AIRFLOW__PARALLELRUN__MODELS_ROOT"):
        monkeypatch.delenv(name, raising=False)
    assert (read_settings().models_root, read_settings().storage_root) == (None, None)
    monkeypatch.setenv("AIRFLOW__PARALLELRUN__MODELS_ROOT", "/models")
    monkeypatch.setenv("AIRFLOW__PARALLELRUN__STORAGE_ROOT", "/runs")
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "7")
    settings = read_settings()
    assert (settings.models_root, settings.storage_root, settings.max_nodes) == ("/models", "/runs", 7)
    monkeypatch.setenv("PARALLELRUN_MODELS_ROOT", "/mine")
    assert read_settings().models_root == "/mine"
