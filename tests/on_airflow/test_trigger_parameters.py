# SPDX-License-Identifier: Apache-2.0
"""Pipeline parameters by REST, by the scheduler and by a backfill: what the plan and the script see."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from harness import DagRun, eventually

from demo.airflow_client import AirflowApiError

if TYPE_CHECKING:
    from harness import Workspace

# The configuration with nothing but defaults; None and text stay what they are.
DEFAULTS = {
    "mini_batch_size": "3",
    "node_count": 1,
    "process_count_per_node": None,
    "run_invocation_timeout": 60,
    "run_max_try": 3,
    "error_threshold": 0,
    "allowed_failed_count": None,
    "allowed_failed_percent": 12.5,
    "logging_level": "INFO",
}
DEFAULT_ARGUMENTS = ["--label", "digit", "--threshold", "0.5", "--top", "3", "--strict", "False"]

OTHERS = {
    "mini_batch_size": 2,
    "node_count": 2,
    "process_count_per_node": 1,
    "run_invocation_timeout": 30,
    "run_max_try": 1,
    "error_threshold": -1,
    "allowed_failed_count": 4,
    "allowed_failed_percent": 50,
    "logging_level": "DEBUG",
}

REFUSED_BY_SPLIT = {
    "size": (
        {"batch_size": "64MB"},
        "the pipeline parameter 'batch_size' has a wrong value: mini_batch_size",
    ),
    "fraction": (
        {"nodes": 5.0},
        "the pipeline parameter 'nodes' has a wrong value: node_count must be a whole number, 1 or more, "
        "got 5.0.",
    ),
    "slips": (
        {"batch_sise": 1, "Nodes": 2, "run-max-try": 1, "channel": "x"},
        "unknown parameter 'Nodes' in the run's conf; did you mean 'nodes'? "
        "unknown parameter 'batch_sise' in the run's conf; did you mean 'batch_size'? "
        "unknown parameter 'run-max-try' in the run's conf; did you mean 'tries'? "
        "Trigger the DAG again with the right name",
    ),
}

TRIED = (0, -5, "0", 1.5, 5.0, None, "64MB", True, [], "", "DEBUG")
# What the form's schema lets through; split refuses "64MB" and 5.0 where they are no count, see above.
ACCEPTED: dict[str, list[Any]] = {
    "files": ["0", "64MB", "DEBUG"],
    "label": ["0", "64MB", "", "DEBUG"],
    "threshold": [0, -5, 1.5, 5.0],
    "top": [0, -5, 5.0],
    "strict": [True],
    "batch_size": [5.0, "64MB"],
    "nodes": [5.0],
    "processes": [5.0, None],
    "seconds": [5.0],
    "tries": [5.0],
    "tolerated": [0, 5.0],
    "failed_batches": [0, 5.0, None],
    "failed_percent": [0, 1.5, 5.0],
    "level": ["DEBUG"],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_api_server_checks_each_value(workspace: Workspace, name: str) -> None:
    workspace.airflow.wait_for_dags(["paused_parameters"])
    for value in TRIED:
        if json.dumps(value) in map(json.dumps, ACCEPTED[name]):
            run_id = workspace.client.trigger("paused_parameters", {name: value})
            conf = workspace.client.dag_run("paused_parameters", run_id)["conf"]
            assert json.dumps(conf) == json.dumps({name: value})
        else:
            _is_refused(workspace, "paused_parameters", {name: value}, name)


def test_without_a_default_a_run_without_the_value_is_refused(workspace: Workspace) -> None:
    workspace.airflow.wait_for_dags(["required_parameters"])
    values = _required_values(workspace)
    for name in values:
        for given in ({key: value for key, value in values.items() if key != name}, {**values, name: None}):
            _is_refused(workspace, "required_parameters", given, name)


@pytest.fixture(scope="module")
def runs(workspace: Workspace) -> dict[str, DagRun]:
    """Start everything at once, so that the tests share the waiting."""
    workspace.airflow.wait_for_dags(
        ["parameters", "required_parameters", "scheduled_parameters", "two_steps"]
    )
    # First of all: SQLite has Airflow refuse a backfill while much else is being written.
    made = {"backfill": _backfill(workspace, "2023")}
    made |= {name: workspace.run("parameters", conf) for name, (conf, _) in REFUSED_BY_SPLIT.items()}
    made["others"] = workspace.run("parameters", _other_values(workspace))
    made["dated"] = _dated_run(workspace)
    made["required"] = workspace.run("required_parameters", _required_values(workspace))
    made["foreign_key"] = workspace.run("two_steps", {"batch_size": 8, "channel": "#digits"})
    made["slip_in_the_second"] = workspace.run("two_steps", {"node": 2})
    workspace.client.unpause("scheduled_parameters")
    made["scheduled"] = _run_of_type(workspace, "scheduled")
    return made


def test_each_value_reaches_plan_and_script_with_its_type(runs: dict[str, DagRun]) -> None:
    run = runs["others"]
    states = run.ends_as("success")
    assert {"predict.run[0]", "predict.run[1]"} <= set(states)
    files = [str(run.workspace.root / "input" / name) for name in "356"]
    _plan_has(run, OTHERS, files)
    saw = _saw(run)
    assert [each["item"] for each in saw] == ["3", "5", "6"]
    assert sorted(each["of"] for each in saw) == [1, 2, 2]
    # Text from conf is a value, neither JSON nor a template.
    expected = ["--label", "[1, {{ run_id }}]", "--threshold", "0.25", "--top", "-1", "--strict", "True"]
    assert saw[0]["arguments"][2:] == expected
    assert "a detail of" in run.log("predict.run[0]") + run.log("predict.run[1]")


def test_a_run_with_a_logical_date_and_no_conf_has_the_defaults(runs: dict[str, DagRun]) -> None:
    run = runs["dated"]
    _has_the_defaults(run)
    assert run.client.dag_run(run.dag_id, run.run_id)["logical_date"] == "2026-01-02T03:04:05Z"
    assert runs["others"].client.dag_run("parameters", runs["others"].run_id)["logical_date"] is None


@pytest.mark.parametrize("kind", ["scheduled", "backfill"])
def test_runs_that_airflow_makes_have_the_defaults(runs: dict[str, DagRun], kind: str) -> None:
    run = runs[kind]
    assert run.client.dag_run(run.dag_id, run.run_id)["run_type"] == kind
    _has_the_defaults(run)


def test_without_a_default_each_run_gives_the_value(runs: dict[str, DagRun]) -> None:
    run = runs["required"]
    run.ends_as("success")
    assert [each["item"] for each in _saw(run)] == ["1", "2"]
    assert _saw(run)[0]["arguments"][2:] == ["--label", "5", "--threshold", "0.5"]


@pytest.mark.parametrize("name", REFUSED_BY_SPLIT)
def test_split_refuses_what_the_schema_lets_through(runs: dict[str, DagRun], name: str) -> None:
    run, message = runs[name], REFUSED_BY_SPLIT[name][1]
    assert run.ends_as("failed") == {
        "predict.split": "failed",
        "predict.run": "upstream_failed",
        "predict.reduce": "failed",
    }
    assert message in run.log("predict.split")
    assert not run.output.exists()


def test_a_key_that_resembles_no_parameter_is_left_to_others(runs: dict[str, DagRun]) -> None:
    run = runs["foreign_key"]
    run.ends_as("success")
    for step in ("first", "second"):
        log = run.log(f"{step}.predict.split")
        assert "The run's conf has keys that no parameter of the DAG has: channel" in log
        assert "Planned 1 mini-batches (8 items)" in log


def test_the_first_step_refuses_a_slip_in_a_parameter_of_the_second(runs: dict[str, DagRun]) -> None:
    run = runs["slip_in_the_second"]
    states = run.ends_as("failed")
    assert states["first.predict.split"] == "failed"
    assert states["second.predict.split"] == "upstream_failed"
    assert "unknown parameter 'node' in the run's conf; did you mean 'nodes'?" in run.log(
        "first.predict.split"
    )


def _other_values(workspace: Workspace) -> dict[str, Any]:
    return {
        "files": [str(workspace.root / "input" / name) for name in "356"],
        "label": "[1, {{ run_id }}]",
        "threshold": 0.25,
        "top": -1,
        "strict": True,
        "batch_size": 2,
        "nodes": 2,
        "processes": 1,
        "seconds": 30,
        "tries": 1,
        "tolerated": -1,
        "failed_batches": 4,
        "failed_percent": 50,
        "level": "DEBUG",
        "date": "of the DAG's own",
    }


def _required_values(workspace: Workspace) -> dict[str, Any]:
    files = [str(workspace.root / "input" / name) for name in "12"]
    return {"files": files, "label": 5, "threshold": "0.5", "batch_size": 1, "nodes": 1, "level": "INFO"}


def _dated_run(workspace: Workspace) -> DagRun:
    body = {"logical_date": "2026-01-02T03:04:05Z", "dag_run_id": "dated", "conf": {}}
    workspace.client.request("POST", "/dags/parameters/dagRuns", json=body)
    return DagRun(workspace, "parameters", "dated")


def _backfill(workspace: Workspace, year: str) -> DagRun:
    body = {
        "dag_id": "scheduled_parameters",
        "from_date": f"{year}-01-01T00:00:00Z",
        "to_date": f"{year}-06-01T00:00:00Z",
        "max_active_runs": 1,
    }
    workspace.client.request("POST", "/backfills", json=body)
    return _run_of_type(workspace, "backfill")


def _run_of_type(workspace: Workspace, run_type: str) -> DagRun:
    def first() -> str | None:
        found = workspace.client.request("GET", "/dags/scheduled_parameters/dagRuns")["dag_runs"]
        return next((run["dag_run_id"] for run in found if run["run_type"] == run_type), None)

    run_id = eventually(first, f"a {run_type} run of scheduled_parameters")
    return DagRun(workspace, "scheduled_parameters", str(run_id))


def _has_the_defaults(run: DagRun) -> None:
    run.ends_as("success")
    assert not run.client.dag_run(run.dag_id, run.run_id)["conf"]
    _plan_has(run, DEFAULTS, [str(run.workspace.root / "input")])
    saw = _saw(run)
    assert sorted(each["of"] for each in saw) == [2, 2, 3, 3, 3, 3, 3, 3]
    assert saw[0]["arguments"][2:] == DEFAULT_ARGUMENTS


def _plan_has(run: DagRun, config: dict[str, Any], paths: list[str]) -> None:
    """Check the plan's paths, and its configuration as far as parameters stand there."""
    plan = json.loads((run.run_dir / "plan.json").read_text())
    # As JSON: True == 1 == 1.0 in Python.
    assert json.dumps({name: plan["config"][name] for name in config}) == json.dumps(config)
    assert [each["paths"] for each in plan["inputs"]] == [paths]


def _saw(run: DagRun) -> list[dict[str, Any]]:
    return sorted((json.loads(row) for row in run.rows()), key=lambda saw: str(saw["item"]))


def _is_refused(workspace: Workspace, dag_id: str, conf: dict[str, Any], name: str) -> None:
    with pytest.raises(AirflowApiError, match=f"Invalid input for param {name}: ") as refused:
        workspace.client.trigger(dag_id, conf)
    assert refused.value.status == 400, conf
