# SPDX-License-Identifier: Apache-2.0
"""What happens when a DAG file is parsed."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, Asset, BaseOperator, TaskGroup, task, task_group
from airflow.serialization.serialized_objects import DagSerialization

from airflow_parallelrun import (
    ComputeTarget,
    Dataset,
    Environment,
    ParallelRunConfig,
    ParallelRunOperator,
    PipelineParameter,
)
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NotSupportedError
from airflow_parallelrun.operators.routing import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILES = Dataset.File.from_files("/no/such/folder")


@pytest.fixture
def dag() -> Iterator[DAG]:
    with DAG("nightly", schedule=None, default_args={"retries": 4, "owner": "ann"}) as made:
        yield made


def config(**changes: Any) -> ParallelRunConfig:
    values = {
        "environment": Environment(),
        "entry_script": "score.py",
        "source_directory": "scripts",
        "error_threshold": 0,
        "output_action": "append_row",
        "compute_target": ComputeTarget(),
        "node_count": 2,
    }
    return ParallelRunConfig(**{**values, **changes})


def operator(**changes: Any) -> ParallelRunOperator:
    values = {
        "task_id": "predict",
        "parallel_run_config": config(),
        "inputs": [_FILES.as_mount()],
        "output": "/results/{{ run_id }}",
    }
    return ParallelRunOperator(**{**values, **changes})


def test_it_is_three_tasks_with_a_direct_edge_to_reduce(dag: DAG) -> None:
    predict = operator()
    assert set(dag.task_dict) == {"predict.split", "predict.run", "predict.reduce"}
    assert dag.get_task("predict.split").downstream_task_ids == {"predict.run", "predict.reduce"}
    assert dag.get_task("predict.run").downstream_task_ids == {"predict.reduce"}
    assert dag.get_task("predict.run").is_mapped
    assert dag.get_task("predict.reduce").trigger_rule == "all_done"
    assert [leaf.task_id for leaf in predict.leaves] == ["predict.reduce"]
    assert [root.task_id for root in predict.roots] == ["predict.split"]


def test_it_stands_between_other_tasks_like_an_operator(dag: DAG) -> None:
    @task
    def extract() -> None: ...

    @task
    def notify(path: str) -> None: ...

    predict = operator()
    extract() >> predict >> notify(predict.output)
    assert dag.get_task("predict.split").upstream_task_ids == {"extract"}
    assert dag.get_task("notify").upstream_task_ids == {"predict.reduce"}
    assert "task_ids='predict.reduce'" in str(predict.output)
    assert "key='output'" in str(predict.output)


def test_it_nests_in_a_task_group(dag: DAG) -> None:
    with TaskGroup("outer"):
        predict = operator()
    assert "outer.predict.split" in dag.task_dict
    assert predict.output.operator.task_id == "outer.predict.reduce"


def test_it_takes_a_dag_instead_of_a_with_block() -> None:
    dag = DAG("by_hand", schedule=None)
    operator(dag=dag)
    assert "predict.reduce" in dag.task_dict


def test_the_output_of_another_task_is_a_dependency(dag: DAG) -> None:
    @task
    def choose() -> str:
        return "x"

    chosen = choose()
    operator(output=chosen, arguments=["--model", chosen])
    assert dag.get_task("predict.split").upstream_task_ids == {"choose"}


@pytest.mark.parametrize("name", ["ab", "a" * 33, "Predict", "1predict", "predict-", "pre_dict", "a.b", 7])
def test_a_name_outside_the_rule_is_refused(dag: DAG, name: object) -> None:
    with pytest.raises(InvalidValueError, match="task_id must be 3 to 32 lower-case letters"):
        operator(task_id=name)
    with pytest.raises(InvalidValueError, match="name must be 3 to 32 lower-case letters"):
        operator(task_id=None, name=name)


@pytest.mark.parametrize("name", ["abc", "a" * 32, "predict-digits-mnist"])
def test_a_name_within_the_rule_is_taken_as_task_id_or_name(dag: DAG, name: str) -> None:
    operator(task_id=None, name=name)
    assert f"{name}.split" in dag.task_dict


def test_it_needs_exactly_one_name(dag: DAG) -> None:
    with pytest.raises(ConfigurationError, match="needs one name"):
        operator(task_id=None)
    with pytest.raises(ConfigurationError, match="got task_id='predict', name='other'"):
        operator(name="other")


@pytest.mark.parametrize("inputs", [None, [], "data", _FILES.as_mount()])
def test_inputs_must_be_a_list_of_at_least_one(dag: DAG, inputs: object) -> None:
    with pytest.raises(InvalidValueError, match="inputs must be a list of at least one dataset"):
        operator(inputs=inputs)


@pytest.mark.parametrize("item", [_FILES, PipelineParameter("files", _FILES)])
def test_a_bare_dataset_is_refused(dag: DAG, item: object) -> None:
    with pytest.raises(
        InvalidValueError, match=r"inputs\[1\] must be .* add \.as_named_input\(name\); to files"
    ):
        operator(inputs=[_FILES.as_mount(), item])


def test_anything_else_among_inputs_is_refused(dag: DAG) -> None:
    with pytest.raises(InvalidValueError, match=r"inputs\[0\] must be a dataset.*got '/data'"):
        operator(inputs=["/data"])


def test_an_output_may_be_left_out(dag: DAG) -> None:
    operator(output=None)
    operator(task_id="summary", output=None, parallel_run_config=config(output_action="summary_only"))
    with pytest.raises(InvalidValueError, match="output must be the path"):
        operator(task_id="again", output=3)


@pytest.mark.parametrize("given", [{}, {"allow_reuse": True}, {"allow_reuse": False}])
def test_results_are_reused_unless_that_is_not_wanted(dag: DAG, given: dict[str, Any]) -> None:
    operator(**given)
    assert dag.get_task("predict.split").allow_reuse is given.get("allow_reuse", True)


def test_whether_to_reuse_is_said_by_a_boolean(dag: DAG) -> None:
    with pytest.raises(InvalidValueError, match="allow_reuse must be True or False, got 'no'"):
        operator(allow_reuse="no")


def test_the_config_must_be_one(dag: DAG) -> None:
    with pytest.raises(InvalidValueError, match="parallel_run_config must be a ParallelRunConfig, got "):
        operator(parallel_run_config={})


@pytest.mark.parametrize("word", ["--output", "--mini_batch_size=3", "--logging_level"])
def test_the_steps_own_argument_names_are_refused(dag: DAG, word: str) -> None:
    with pytest.raises(InvalidValueError, match=r"arguments\[2\] must be another name: --\w+ is the step"):
        operator(arguments=["--threshold", 0.5, word])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--a b", "arguments must be a list"),
        (["a"], r"arguments\[0\] must be a name such as"),
        ([5], r"arguments\[0\] must be a name such as"),
        (["--a", None], r"arguments\[1\] must be text or a number, got None"),
        (["--a", ["b"]], r"arguments\[1\] must be text or a number"),
        (["--a", PipelineParameter("p", None)], "default_value of the pipeline parameter 'p' must be text"),
        (["--a", _FILES.as_mount()], r"\(arguments\[1\]\) that is not one of side_inputs is not supported"),
    ],
)
def test_arguments_outside_the_rule_are_refused(dag: DAG, arguments: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        operator(arguments=arguments)


def test_a_side_input_among_arguments_is_replaced_on_the_node(dag: DAG) -> None:
    labels = Dataset.File.from_files("/labels.txt")
    words = PipelineParameter("words", Dataset.File.from_files("/words"))
    sides = [labels.as_named_input("labels").as_mount(), words.as_named_input("words")]
    given = ["--labels", labels, "--same", sides[0], "--words", words, "--all", sides[1], "--n", 1]
    operator(side_inputs=sides, arguments=given)
    split = dag.get_task("predict.split")
    label, word = {"side_input": "labels"}, {"side_input": "words"}
    assert split.arguments == ["--labels", label, "--same", label, "--words", word, "--all", word, "--n", 1]
    assert split.origins == {"side_inputs[1]": "words"}
    assert [each["name"] for each in split.side_inputs] == ["labels", "words"]
    assert dag.params.get_param("words").schema["title"] == "words"


@pytest.mark.parametrize(
    ("side_inputs", "message"),
    [
        (_FILES.as_named_input("x"), "side_inputs must be a list such as"),
        ([_FILES.as_mount()], r"side_inputs\[0\] must be a dataset with a name"),
        ([PipelineParameter("files", _FILES)], r"side_inputs\[0\] must be a dataset with a name"),
        ([_FILES.as_named_input("MINE")], r"name of side_inputs\[0\] must be one that nothing else has"),
    ],
)
def test_what_cannot_be_a_side_input(dag: DAG, side_inputs: object, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        operator(side_inputs=side_inputs, parallel_run_config=config(environment_variables={"MINE": "1"}))


def test_arguments_keep_their_types_until_split(dag: DAG) -> None:
    operator(arguments=["--a", 1, "-b", 0.5, "--output_dir=x", "--c", True])
    assert dag.get_task("predict.split").arguments == ["--a", 1, "-b", 0.5, "--output_dir=x", "--c", True]


@pytest.mark.parametrize("arguments", [["--task_overhead_timeout", "soon"], ["--profiling_module=perf"]])
def test_a_value_for_the_originals_driver_that_cannot_be_is_refused_at_once(
    dag: DAG, arguments: list[str]
) -> None:
    name = arguments[0].partition("=")[0]
    with pytest.raises(InvalidValueError, match=f"{name} must be "):
        operator(arguments=arguments)


def test_two_values_for_one_field_are_refused_at_once(dag: DAG) -> None:
    with pytest.raises(ConfigurationError, match=r"is 5 in the configuration, and --task_overhead_timeout 6"):
        operator(
            parallel_run_config=config(task_overhead_timeout=5), arguments=["--task_overhead_timeout", 6]
        )


def test_values_for_the_originals_driver_that_are_not_known_yet_wait_for_split(dag: DAG) -> None:
    arguments = ["--task_overhead_timeout", PipelineParameter("limit", 0), "--profiling_module={{ var.x }}"]
    operator(arguments=arguments)
    split = dag.get_task("predict.split")
    assert split.origins == {"arguments[1]": "limit", "--task_overhead_timeout": "limit"}
    assert split.config["task_overhead_timeout"] == 600


def test_values_of_variables_are_in_no_field_that_airflow_shows(dag: DAG) -> None:
    step = operator(parallel_run_config=config(environment_variables={"API_KEY": "xyzzy"}))
    split = dag.get_task(f"{step.group_id}.split")
    assert "xyzzy" not in str([getattr(split, name) for name in split.template_fields])


@pytest.mark.parametrize(
    ("argument", "value", "place"),
    [
        ("retries", 2, "run"),
        ("retry_delay", timedelta(seconds=7), "run"),
        ("pool", "gpu", "run"),
        ("pool_slots", 3, "run"),
        ("queue", "q", "run"),
        ("executor", "LocalExecutor", "run"),
        ("priority_weight", 5, "run"),
        ("execution_timeout", timedelta(hours=1), "run"),
        ("max_active_tis_per_dagrun", 1, "run"),
        ("outlets", [Asset("predictions")], "reduce"),
        ("doc_md", "# Predict", "reduce"),
        ("trigger_rule", "none_failed", "split"),
        ("depends_on_past", True, "split"),
    ],
)
def test_an_operators_argument_goes_to_its_task(argument: str, value: object, place: str) -> None:
    with DAG("plain", schedule=None) as dag:
        operator(**{argument: value})
    for name in ("split", "run", "reduce"):
        given = getattr(dag.get_task(f"predict.{name}"), argument)
        assert (given == value) is (name == place), f"{argument} of {name} is {given!r}"


def test_a_callback_goes_to_reduce(dag: DAG) -> None:
    def page(context: object) -> None: ...

    operator(on_failure_callback=page)
    assert list(dag.get_task("predict.reduce").on_failure_callback) == [page]
    assert not dag.get_task("predict.run").on_failure_callback


def test_default_args_reach_all_three(dag: DAG) -> None:
    operator(retries=1)
    assert [dag.get_task(f"predict.{name}").retries for name in ("split", "run", "reduce")] == [4, 1, 4]
    assert {dag.get_task(f"predict.{name}").owner for name in ("split", "run", "reduce")} == {"ann"}


def test_default_args_do_not_change_how_the_three_hang_together() -> None:
    defaults = {"trigger_rule": "none_failed", "pool": "shared", "map_index_template": "x"}
    with DAG("plain", schedule=None, default_args=defaults) as dag:
        operator()
    rules = [dag.get_task(f"predict.{name}").trigger_rule for name in ("split", "run", "reduce")]
    assert rules == ["none_failed", "all_success", "all_done"]
    assert dag.get_task("predict.run").pool == "shared"


def test_an_unknown_argument_gets_a_suggestion(dag: DAG) -> None:
    with pytest.raises(TypeError, match="does not take the argument 'retry'; did you mean 'retries'"):
        operator(retry=3)
    with pytest.raises(TypeError, match="'argument'; did you mean 'arguments'"):
        operator(argument=[])
    with pytest.raises(TypeError, match="'xyz'; see its docstring"):
        operator(xyz=1)


def test_every_route_is_in_the_docstring_and_exists() -> None:
    import inspect

    known = set(inspect.signature(BaseOperator.__init__).parameters)
    for name in ROUTES:
        assert f"``{name}``" in str(ParallelRunOperator.__doc__)
        assert name in known


def test_the_compute_targets_pool_is_the_nodes_pool(dag: DAG) -> None:
    operator(parallel_run_config=config(compute_target=ComputeTarget(pool="gpu")))
    assert dag.get_task("predict.run").pool == "gpu"
    assert dag.get_task("predict.split").pool == "default_pool"
    with pytest.raises(InvalidValueError, match="pool must be left out, or the same as the compute_target's"):
        operator(task_id="again", pool="cpu", parallel_run_config=config(compute_target="gpu"))


def test_a_mapped_task_group_is_refused(dag: DAG) -> None:
    @task_group
    def each(folder: str) -> None:
        operator(output=folder)

    with pytest.raises(NotSupportedError, match="inside a mapped task group is not supported yet"):
        each.expand(folder=["/a", "/b"])


def test_without_a_dag_the_message_is_airflows_own() -> None:
    with pytest.raises(RuntimeError, match="TaskGroup can only be used inside a dag"):
        operator()


def test_parsing_looks_at_no_file(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"looked at {arguments}")

    for name in ("scandir", "listdir", "stat", "lstat", "open"):
        monkeypatch.setattr(os, name, refuse)
    operator(inputs=[Dataset.File.from_files(["data/*.png", "abfs://c@a/x"]).as_direct()])


def _full_dag() -> DAG:
    with DAG("full", schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        operator(
            parallel_run_config=config(
                mini_batch_size=PipelineParameter("batch_size_param", default_value="5"),
                environment_variables={"B": "2", "A": "1"},
            ),
            inputs=[PipelineParameter("mnist_param", _FILES).as_mount(), _FILES.as_direct()],
            arguments=["--threshold", PipelineParameter("threshold", 0.5)],
        )
    return dag


def test_it_is_serialised_the_same_at_every_parse() -> None:
    first, second = (DagSerialization.to_dict(_full_dag()) for _ in range(2))
    assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def test_it_survives_serialisation() -> None:
    restored = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(_full_dag()))))
    assert set(restored.task_dict) == {"predict.split", "predict.run", "predict.reduce"}
    assert restored.get_task("predict.run").is_mapped
    assert restored.get_task("predict.reduce").trigger_rule == "all_done"
    assert set(restored.params) == {"batch_size_param", "mnist_param", "threshold"}


def test_a_part_of_the_dag_can_be_selected() -> None:
    part = _full_dag().partial_subset("predict.reduce", include_upstream=True)
    assert set(part.task_dict) == {"predict.split", "predict.run", "predict.reduce"}


def test_what_only_tables_and_object_stores_could_use_is_refused_at_parse(dag: DAG) -> None:
    with pytest.raises(InvalidValueError, match="files are counted, not sized"):
        operator(parallel_run_config=config(mini_batch_size="64MB"))
    with pytest.raises(NotSupportedError, match=r"writing to 'gs://b/x'"):
        operator(task_id="another", output="gs://b/x")
