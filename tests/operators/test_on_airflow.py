# SPDX-License-Identifier: Apache-2.0
"""ParallelRunOperator on a real scheduler, API server and dag processor, by REST."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import airflow_parallelrun
from demo.airflow_client import AirflowApiError, AirflowClient
from demo.local_airflow import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.airflow

_DEADLINE_S = 120.0

_DAGS = """
from airflow.sdk import DAG, task
from airflow_parallelrun import (
    ComputeTarget, Dataset, Environment, ParallelRunConfig, ParallelRunOperator, PipelineParameter)

ROOT = __ROOT__


def predict(dag_id, script="echo.py", inputs=None, arguments=None, **changes):
    values = dict(
        environment=Environment(), source_directory="scripts", entry_script=script, error_threshold=1,
        output_action="append_row", append_row_file_name="rows.txt", compute_target=ComputeTarget(),
        node_count=1, process_count_per_node=1, mini_batch_size=2)
    return ParallelRunOperator(
        task_id="predict",
        parallel_run_config=ParallelRunConfig(**{**values, **changes}),
        inputs=inputs or [Dataset.File.from_files(ROOT + "/input").as_mount()],
        output=ROOT + "/out/" + dag_id + "/{{ run_id }}",
        arguments=arguments,
    )


@task
def read(path):
    with open(path) as file:
        return {"path": path, "rows": sorted(file.read().splitlines())}


with DAG("append", schedule=None):
    files = PipelineParameter("files", Dataset.File.from_files(ROOT + "/input/*.txt"))
    step = predict(
        "append",
        inputs=[files.as_mount()],
        node_count=2,
        mini_batch_size=PipelineParameter("batch_size", "2"),
        process_count_per_node=PipelineParameter("processes", 2),
        arguments=["--prefix", PipelineParameter("prefix", "row"), "--run", "{{ run_id }}"])
    read(step.output)

with DAG("summary", schedule=None):
    predict("summary", output_action="summary_only", logging_level="DEBUG")

with DAG("tolerance_exceeded", schedule=None):
    predict("tolerance_exceeded", script="refuse.py", run_max_try=1, node_count=2) >> read.override(
        task_id="after")("/dev/null")

with DAG("init_raises", schedule=None):
    predict("init_raises", script="broken_init.py")

with DAG("empty_input", schedule=None):
    predict("empty_input", inputs=[Dataset.File.from_files(ROOT + "/empty").as_mount()])

with DAG("branch", schedule=None):
    @task.branch
    def choose():
        return "other"

    @task
    def other(): ...

    choose() >> [predict("branch"), other()]
"""

_SCRIPTS = {
    "echo.py": """
import argparse, logging, os

def init():
    global prefix
    parser = argparse.ArgumentParser()
    parser.add_argument("--prefix", default="row")
    prefix = parser.parse_known_args()[0].prefix

def run(mini_batch):
    logging.debug("a detail")
    return [f"{prefix} {os.path.basename(path)} of {len(mini_batch)}" for path in mini_batch]
""",
    "refuse.py": """
class UnreadableDigit(ValueError): ...

def run(mini_batch):
    raise UnreadableDigit("no digit in " + mini_batch[0].rsplit("/", 1)[-1])
""",
    "broken_init.py": """
def init():
    raise FileNotFoundError("the weights are not there")

def run(mini_batch):
    return mini_batch
""",
}


@dataclass(frozen=True)
class Run:
    """One DAG run, awaited by a deadline; a state that was not expected shows the logs."""

    client: AirflowClient
    dag_id: str
    run_id: str

    def ends_as(self, expected: str) -> dict[str, str]:
        """Wait, check the run's state and return the tasks' states, mapped ones as ``id[index]``."""
        state = self.client.wait(self.dag_id, self.run_id, timeout_s=_DEADLINE_S)["state"]
        tasks = self.client.task_instances(self.dag_id, self.run_id)
        found = {_label(item): item["state"] for item in tasks}
        assert state == expected, f"{self.dag_id} is {state}: {found}\n" + "\n".join(
            f"--- {_label(item)}\n{self.log(item['task_id'], item['map_index'])}" for item in tasks
        )
        return found

    def log(self, task_id: str, map_index: int = -1) -> str:
        """Return the log of the first try as one JSON text per line."""
        try:
            lines = self.client.logs(self.dag_id, self.run_id, task_id, map_index)
        except AirflowApiError as error:
            return str(error)
        return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        """Return an XCom of a task that is not mapped."""
        return self.client.xcom(self.dag_id, self.run_id, task_id, key)


def _label(task_instance: dict[str, Any]) -> str:
    index = task_instance["map_index"]
    return task_instance["task_id"] + (f"[{index}]" if index >= 0 else "")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out DAGs, scripts and inputs."""
    root = tmp_path_factory.mktemp("airflow")
    scripts = root / "dags" / "scripts"
    scripts.mkdir(parents=True)
    (root / "dags" / "steps.py").write_text(_DAGS.replace("__ROOT__", repr(str(root))))
    (root / "dags" / ".airflowignore").write_text("scripts/\n")
    for name, text in _SCRIPTS.items():
        (scripts / name).write_text(text)
    (root / "empty").mkdir()
    (root / "input").mkdir()
    for index in range(7):
        (root / "input" / f"{index}.txt").write_text(str(index))
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[AirflowClient]:
    """Start one Airflow for the module."""
    environment = {"PYTHONPATH": str(Path(airflow_parallelrun.__file__).parents[1])}
    airflow = LocalAirflow(root / "home", root / "dags", environment=environment, parallelism=4)
    try:
        yield airflow.start(_STARTED)
    finally:
        airflow.stop()


_STARTED = ("append", "summary", "tolerance_exceeded", "init_raises", "empty_input", "branch")


@pytest.fixture(scope="module")
def runs(client: AirflowClient, root: Path) -> dict[str, Run]:
    """Trigger everything at once, so that the tests share the waiting."""
    made = {dag_id: Run(client, dag_id, client.trigger(dag_id)) for dag_id in _STARTED}
    conf = {
        "files": [f"{root}/input/3.txt", f"{root}/input/5.txt"],
        "batch_size": 1,
        "processes": 1,
        "prefix": "{{ digit }}",
    }
    made["override"] = Run(client, "append", client.trigger("append", conf))
    return made


def test_the_output_file_reaches_the_next_task(runs: dict[str, Run], root: Path) -> None:
    run = runs["append"]
    states = run.ends_as("success")
    assert set(states) == {"predict.split", "predict.run[0]", "predict.run[1]", "predict.reduce", "read"}
    file = root / "out" / "append" / run.run_id / "rows.txt"
    rows = [f"row {index}.txt of {1 if index == 6 else 2}" for index in range(7)]
    assert run.xcom("read") == {"path": str(file), "rows": rows}
    assert sorted(file.read_text().splitlines()) == rows


def test_split_pushes_pointers_and_reduce_the_result(runs: dict[str, Run]) -> None:
    run = runs["append"]
    run.ends_as("success")
    plan = run.xcom("predict.split", "plan")
    assert set(plan) == {"run_dir", "plan_id", "nodes", "reused_from"}
    assert plan["nodes"] == 2
    assert run.xcom("predict.split") == [{"node": index, "run_dir": plan["run_dir"]} for index in range(2)]
    result = run.xcom("predict.reduce")
    assert result["output_file"] == run.xcom("predict.reduce", "output")


def test_conf_overrides_keep_their_types(runs: dict[str, Run]) -> None:
    run = runs["override"]
    states = run.ends_as("success")
    assert set(states) >= {"predict.run[0]", "predict.run[1]"}
    # Text from conf is a value, never a template.
    assert run.xcom("read")["rows"] == ["{{ digit }} 3.txt of 1", "{{ digit }} 5.txt of 1"]


@pytest.mark.parametrize(
    "conf",
    [{"batch_size": "0"}, {"batch_size": -5}, {"batch_size": 1.5}, {"batch_size": None}, {"files": []}],
)
def test_a_value_outside_the_range_starts_nothing(client: AirflowClient, conf: dict[str, Any]) -> None:
    with pytest.raises(AirflowApiError, match=f"Invalid input for param {next(iter(conf))}") as refused:
        client.trigger("append", conf)
    assert refused.value.status == 400


def test_what_the_form_cannot_know_is_refused_by_split(client: AirflowClient) -> None:
    run = Run(client, "append", client.trigger("append", {"batch_size": "64MB"}))
    states = run.ends_as("failed")
    assert states["predict.split"] == "failed"
    assert "mini_batch_size" in run.log("predict.split")


def test_a_node_shows_its_progress_and_says_what_it_did(runs: dict[str, Run], client: AirflowClient) -> None:
    run = runs["append"]
    run.ends_as("success")
    nodes = [item for item in client.task_instances("append", run.run_id) if item["task_id"] == "predict.run"]
    done = 0
    for node in nodes:
        progress = client.task_state("append", run.run_id, "predict.run", node["map_index"], "progress")
        assert progress["node"] == node["map_index"]
        assert progress["mini_batches_total"] == 4
        done += progress["mini_batches_done"]
        name = f"node {node['map_index']} · {progress['mini_batches_done']} mini-batch"
        assert node["rendered_map_index"].startswith(name)
        log = run.log("predict.run", node["map_index"])
        assert f"node {node['map_index']}-1 of 2, round" in log
        assert f"node {node['map_index']}-1 finished" in log
    assert done == 4


def test_summary_only_gives_the_folder(runs: dict[str, Run], root: Path) -> None:
    run = runs["summary"]
    run.ends_as("success")
    assert run.xcom("predict.reduce", "output") == str(root / "out" / "summary" / run.run_id)


def test_the_task_log_shows_the_script_at_its_logging_level(runs: dict[str, Run]) -> None:
    for name in ("summary", "append"):
        runs[name].ends_as("success")
    assert "a detail" in runs["summary"].log("predict.run", 0)
    assert "a detail" not in "".join(runs["append"].log("predict.run", index) for index in (0, 1))


def test_above_the_threshold_reduce_alone_is_red_with_the_users_exception(runs: dict[str, Run]) -> None:
    run = runs["tolerance_exceeded"]
    assert run.ends_as("failed") == {
        "predict.split": "success",
        "predict.run[0]": "success",
        "predict.run[1]": "success",
        "predict.reduce": "failed",
        "after": "upstream_failed",
    }
    log = run.log("predict.reduce")
    assert "AirflowFailException" in log
    assert "error_threshold" in log
    assert "UnreadableDigit: no digit in " in log


def test_an_exception_in_init_fails_the_node_with_that_exception(runs: dict[str, Run]) -> None:
    run = runs["init_raises"]
    states = run.ends_as("failed")
    assert states["predict.run[0]"] == "failed"
    assert states["predict.reduce"] == "failed"
    assert "FileNotFoundError: the weights are not there" in run.log("predict.run", 0)


def test_after_a_failed_split_reduce_names_it(runs: dict[str, Run]) -> None:
    run = runs["empty_input"]
    states = run.ends_as("failed")
    assert states["predict.split"] == "failed"
    assert {state for name, state in states.items() if name.startswith("predict.run")} == {"upstream_failed"}
    assert states["predict.reduce"] == "failed"
    assert "the input has no file" in run.log("predict.split")
    assert "predict.split ended as failed, so there is nothing to reduce" in run.log("predict.reduce")


def test_in_a_branch_that_is_not_taken_all_three_are_skipped(runs: dict[str, Run]) -> None:
    states = runs["branch"].ends_as("success")
    assert {states.pop("choose"), states.pop("other")} == {"success"}
    assert set(states.values()) == {"skipped"}
    assert {name.partition("[")[0] for name in states} == {"predict.split", "predict.run", "predict.reduce"}
