# SPDX-License-Identifier: Apache-2.0
"""Pipeline parameters as fields of the Trigger form, when a DAG file is parsed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, Asset, Param, TaskGroup
from airflow.sdk.exceptions import ParamValidationError

from airflow_parallelrun import (
    ComputeTarget,
    Dataset,
    Environment,
    ParallelRunConfig,
    ParallelRunOperator,
    PipelineParameter,
)
from airflow_parallelrun.config import _RULES
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError
from airflow_parallelrun.operators.form import FIELD_SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILES = Dataset.File.from_files("/data/images")


@pytest.fixture
def dag() -> Iterator[DAG]:
    with DAG("nightly", schedule=None) as made:
        yield made


def step(
    task_id: str = "predict", *, inputs: Any = None, arguments: Any = None, **config: Any
) -> ParallelRunOperator:
    values = {
        "environment": Environment(),
        "entry_script": "score.py",
        "source_directory": "scripts",
        "error_threshold": 0,
        "output_action": "append_row",
        "compute_target": ComputeTarget(),
        "node_count": 2,
    }
    return ParallelRunOperator(
        task_id=task_id,
        parallel_run_config=ParallelRunConfig(**{**values, **config}),
        inputs=inputs or [_FILES.as_mount()],
        output="/results/{{ run_id }}",
        arguments=arguments,
    )


def test_every_setting_that_may_be_a_parameter_has_a_field(dag: DAG) -> None:
    assert set(FIELD_SCHEMAS) == {name for name, rule in _RULES.items() if rule.parameter}


def test_fields_stand_in_a_section_of_the_step_in_one_order(dag: DAG) -> None:
    step(
        logging_level=PipelineParameter("level", "info"),
        node_count=PipelineParameter("nodes", 2),
        mini_batch_size=PipelineParameter("batch_size", "5"),
        arguments=["--top", PipelineParameter("top", 3), PipelineParameter("second", 4)],
        inputs=[PipelineParameter("files", _FILES).as_mount()],
    )
    assert list(dag.params) == ["files", "top", "second", "batch_size", "nodes", "level"]
    fields = [dag.params.get_param(name) for name in dag.params]
    assert {field.schema["section"] for field in fields} == {"Parallel run: predict"}
    assert [field.schema["title"] for field in fields] == list(dag.params)
    assert [str(field.description).partition(" (")[2] for field in fields] == [
        "inputs[0] of predict).",
        "--top of predict).",
        "arguments[2] of predict).",
        "mini_batch_size of predict).",
        "node_count of predict).",
        "logging_level of predict).",
    ]
    assert dag.params.get_param("level").schema["enum"] == ["DEBUG", "INFO", "WARNING"]


def test_parameters_become_fields_with_types_and_defaults(dag: DAG) -> None:
    step(
        mini_batch_size=PipelineParameter("batch_size", "5"),
        node_count=PipelineParameter("nodes", 2),
        process_count_per_node=PipelineParameter("processes", None),
        logging_level=PipelineParameter("level", "info"),
        inputs=[PipelineParameter("files", _FILES).as_mount()],
        arguments=["--threshold", PipelineParameter("threshold", 0.5)],
    )
    fields = {name: dag.params.get_param(name) for name in dag.params}
    assert {name: (field.value, field.schema["type"]) for name, field in fields.items()} == {
        "files": ("/data/images", ["string", "array"]),
        "threshold": (0.5, "number"),
        "batch_size": ("5", ["string", "integer"]),
        "nodes": (2, "integer"),
        "processes": (None, ["integer", "null"]),
        "level": ("INFO", "string"),
    }


def test_several_paths_are_a_list_in_the_form(dag: DAG) -> None:
    files = Dataset.File.from_files(["/a", "/b"])
    step(inputs=[PipelineParameter("files", files).as_mount()])
    assert dag.params["files"] == ["/a", "/b"]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("size", ["7", 7, "64MB", "1kb"], ["0", 0, -5, 1.5, None, "64 MB", "-3", "x", True, "5\n", "1MB\n"]),
        ("nodes", [1, 100], [0, -1, "2", 1.5, None]),
        ("level", ["DEBUG"], ["debug", "ERROR", None]),
        ("files", ["/x", ["/x", "/y"]], ["", [], [""], 3, None]),
        ("limit", [-1, 0], [-2, "0"]),
    ],
)
def test_the_form_lets_only_usable_values_through(
    dag: DAG, name: str, good: list[Any], bad: list[Any]
) -> None:
    step(
        mini_batch_size=PipelineParameter("size", 5),
        node_count=PipelineParameter("nodes", 2),
        logging_level=PipelineParameter("level", "INFO"),
        error_threshold=PipelineParameter("limit", 10),
        inputs=[PipelineParameter("files", _FILES).as_mount()],
    )
    field = dag.params.get_param(name)
    for value in good:
        assert field.resolve(value) == value
    for value in bad:
        with pytest.raises(ParamValidationError):
            field.resolve(value)


def test_a_field_whose_default_is_none_says_what_empty_means(dag: DAG) -> None:
    names = [name for name in FIELD_SCHEMAS if name not in ("node_count", "error_threshold")]
    step(**{name: PipelineParameter(f"my_{name}", None) for name in names})
    for name in names:
        field = dag.params.get_param(f"my_{name}")
        assert field.resolve() is None
        assert "; empty: " in str(field.description)
    assert "empty: one for each CPU (process" in str(
        dag.params.get_param("my_process_count_per_node").description
    )


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("files", ["/data", ["/a", "/b"]], [None, "", [], 3]),
        ("argument", ["x", "", 0, -1.5], [None, True, ["x"]]),
        ("nodes", [1], [None, 0, "1"]),
        ("level", ["DEBUG"], [None, "debug"]),
        ("batch_size", [5, "5", "64MB"], [None, 0, "0"]),
    ],
)
def test_without_a_default_a_field_is_required(dag: DAG, kind: str, good: list[Any], bad: list[Any]) -> None:
    step(
        inputs=[PipelineParameter("files").as_mount()],
        arguments=["--label", PipelineParameter("argument")],
        node_count=PipelineParameter("nodes"),
        logging_level=PipelineParameter("level"),
        mini_batch_size=PipelineParameter("batch_size"),
    )
    field = dag.params.get_param(kind)
    with pytest.raises(ParamValidationError, match="no default value"):
        field.resolve()
    for value in bad:
        with pytest.raises(ParamValidationError):
            field.resolve(value)
    for value in good:
        assert field.resolve(value) == value


@pytest.mark.parametrize(
    "schedule", ["@daily", "0 3 * * *", "@once", "@continuous", timedelta(hours=1), [Asset("images")]]
)
def test_no_default_and_a_schedule_is_an_error(schedule: Any) -> None:
    options = {"max_active_runs": 1} if schedule == "@continuous" else {}
    with DAG("nightly", schedule=schedule, **options) as dag:
        with pytest.raises(ConfigurationError) as refused:
            step(inputs=[PipelineParameter("files").as_mount()])
        assert str(refused.value) == (
            "the pipeline parameter 'files' (inputs[0] of predict) has no default_value, and the DAG "
            "'nightly' has a schedule: the runs that it starts would have no value. Give it a "
            "default_value, or set schedule=None and trigger the DAG with a value."
        )
        with pytest.raises(
            ConfigurationError, match=r"'nodes' \(node_count of second\) has no default_value"
        ):
            step("second", node_count=PipelineParameter("nodes"))
        with pytest.raises(ConfigurationError, match=r"'label' \(--label of third\) has no default_value"):
            step("third", arguments=["--label", PipelineParameter("label")])
    assert not dag.params


def test_none_is_a_default_also_on_a_schedule() -> None:
    with DAG("nightly", schedule="@daily") as dag:
        step(process_count_per_node=PipelineParameter("processes", None))
    assert dag.params["processes"] is None


def test_one_parameter_in_two_places_of_a_step_is_one_field(dag: DAG) -> None:
    timeout = PipelineParameter("seconds", 60)
    step(run_invocation_timeout=timeout, run_max_try=timeout)
    assert list(dag.params) == ["seconds"]
    assert str(dag.params.get_param("seconds").description).endswith(" Also run_max_try of predict.")


def test_one_name_for_two_kinds_of_value_is_refused(dag: DAG) -> None:
    with pytest.raises(ConfigurationError, match=r"'n' .*is already a parameter of the DAG 'nightly'"):
        step(mini_batch_size=PipelineParameter("n", 5), node_count=PipelineParameter("n", 5))


def test_one_parameter_of_two_steps_is_one_field_that_names_both(dag: DAG) -> None:
    files, nodes = PipelineParameter("files", _FILES), PipelineParameter("nodes", 2)
    step("first", inputs=[files.as_mount()], node_count=nodes)
    with TaskGroup("again"):
        step("second", inputs=[files.as_direct()], node_count=nodes)
    assert list(dag.params) == ["files", "nodes"]
    field = dag.params.get_param("nodes")
    assert field.schema["section"] == "Parallel run: first"
    assert field.description == (
        "Nodes, each a task of its own (node_count of first). Also node_count of again.second."
    )


def test_a_required_parameter_of_two_steps_is_one_field(dag: DAG) -> None:
    step("first", inputs=[PipelineParameter("files").as_mount()])
    step("second", inputs=[PipelineParameter("files").as_mount()])
    assert list(dag.params) == ["files"]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (PipelineParameter("n", 5), PipelineParameter("n", 6), "default 5, .* there, default 6, .* here"),
        (PipelineParameter("n", 5), PipelineParameter("n"), "default 5, .* there, no default, .* here"),
    ],
)
def test_one_name_with_two_defaults_is_refused(
    dag: DAG, first: PipelineParameter, second: PipelineParameter, said: str
) -> None:
    step("first", node_count=first)
    with pytest.raises(
        ConfigurationError, match=rf"'n' \(node_count of second\) is already.*'nightly'.*{said}"
    ):
        step("second", node_count=second)


def test_a_param_of_the_dag_with_other_rules_is_refused() -> None:
    with (
        DAG("nightly", schedule=None, params={"nodes": 2}),
        pytest.raises(ConfigurationError, match=r"'nodes' .* already .* Leave it out of the DAG's params"),
    ):
        step(node_count=PipelineParameter("nodes", 2))


def test_a_param_of_the_dag_with_the_same_rules_keeps_its_looks() -> None:
    own = Param(2, description="How wide", title="Width", type="integer", minimum=1)
    with DAG("nightly", schedule=None, params={"nodes": own}) as dag:
        step(node_count=PipelineParameter("nodes", 2))
    field = dag.params.get_param("nodes")
    assert (field.description, field.schema["title"]) == ("How wide", "Width")


def test_a_list_is_no_argument(dag: DAG) -> None:
    with pytest.raises(
        InvalidValueError, match="default_value of the pipeline parameter 'p' must be text or"
    ):
        step(arguments=["--a", PipelineParameter("p", ["x"])])
