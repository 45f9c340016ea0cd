# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InvalidValueError,
    NotSupportedError,
    UnknownNameError,
)
from airflow_parallelrun.parameters import PipelineParameter

REQUIRED: dict[str, Any] = {
    "environment": Environment(),
    "entry_script": "score.py",
    "error_threshold": 10,
    "output_action": "append_row",
    "compute_target": ComputeTarget(),
    "node_count": 2,
}
PARAMETERS = {
    "error_threshold": -1,
    "node_count": 2,
    "process_count_per_node": 2,
    "mini_batch_size": "5",
    "logging_level": "debug",
    "run_invocation_timeout": 30,
    "run_max_try": 1,
    "allowed_failed_count": 0,
    "allowed_failed_percent": 12.5,
    "partition_keys": ["user"],
    "model": "mnist:3",
}


def config(**changes: Any) -> ParallelRunConfig:
    return ParallelRunConfig(**(REQUIRED | changes))


def test_the_order_is_the_originals() -> None:
    positional = ParallelRunConfig(
        Environment(), "score.py", 10, "append_row", ComputeTarget(), 2, 4, "5", "scripts"
    )

    assert positional == config(process_count_per_node=4, mini_batch_size="5", source_directory="scripts")


def test_defaults() -> None:
    made = config()

    assert made.process_count_per_node is None
    assert made.processes_per_node == len(os.sched_getaffinity(0))
    assert made.mini_batch_size is None
    assert made.files_per_mini_batch == 10
    assert (made.run_invocation_timeout, made.run_max_try, made.logging_level) == (60, 3, "INFO")
    assert made.append_row_file_name == "parallel_run_step.txt"
    assert (made.allowed_failed_count, made.allowed_failed_percent) == (None, None)
    assert made.environment_variables == {}
    assert made.init_timeout_s == 210
    assert made.pool == "default_pool"


def test_none_means_the_default() -> None:
    fields = ["process_count_per_node", "mini_batch_size", "source_directory", "description", "logging_level"]
    fields += ["run_invocation_timeout", "run_max_try", "append_row_file_name", "allowed_failed_count"]
    fields += ["allowed_failed_percent", "partition_keys", "environment_variables", "init_timeout"]

    assert config(**dict.fromkeys(fields)) == config()


def test_the_environment_variables_are_ones_own() -> None:
    given = {"A": "1"}
    made = config(environment_variables=given)
    given["B"] = "2"
    assert made.environment_variables == {"A": "1"}
    config(environment_variables=None).environment_variables["C"] = "3"
    assert config(environment_variables=None).environment_variables == {}


@pytest.mark.parametrize("name", REQUIRED)
def test_what_is_required(name: str) -> None:
    given = {key: value for key, value in REQUIRED.items() if key != name}
    with pytest.raises(TypeError, match=name):
        ParallelRunConfig(**given)
    with pytest.raises(InvalidValueError, match=f"^{name}.* must be"):
        config(**{name: None})


def test_values_are_normalised() -> None:
    made = config(
        output_action="Append_Row",
        logging_level="debug",
        entry_script=" score.py ",
        source_directory=Path("scripts"),
        compute_target="gpu",
    )

    assert (made.output_action, made.logging_level) == ("append_row", "DEBUG")
    assert (made.entry_script, made.source_directory) == ("score.py", "scripts")
    assert (made.compute_target, made.pool) == (ComputeTarget("gpu"), "gpu")


@pytest.mark.parametrize(
    ("name", "values", "rule"),
    [
        ("environment", ["env", 5], "an Environment"),
        ("entry_script", ["", "  ", 5, "a\0b"], "a path"),
        ("error_threshold", [-2, 1.0, True, "10"], "a whole number, -1 (tolerate all) or more"),
        ("output_action", ["append", "", 5], "append_row or summary_only"),
        ("compute_target", ["", 5], "the name of an Airflow pool"),
        ("node_count", [0, -1, True, "2", 1.5], "a whole number, 1 or more"),
        ("process_count_per_node", [0, -1, True, "2"], "a whole number, 1 or more, or None"),
        (
            "mini_batch_size",
            [
                0,
                -5,
                "0",
                "0KB",
                "-5",
                "10kbmb",
                "10 KB",
                "1.5MB",
                "1TB",
                "10b",
                "5\n",
                "",
                "٣",
                1.5,
                True,
                "9" * 99,
            ],
            "a positive count, a size such as '64MB'",
        ),
        ("source_directory", ["", 5], "a path"),
        ("description", [5], "text"),
        ("logging_level", ["ERROR", "", 5], "WARNING, INFO or DEBUG"),
        ("run_invocation_timeout", [0, -1, True, 1.5, "60"], "a whole number of seconds, 1 or more"),
        ("run_max_try", [0, -1, True, "3"], "a whole number of tries, 1 or more"),
        ("append_row_file_name", ["a/b", "a*", 'a"', "a~", "a\n"], "a file name without any of"),
        (
            "append_row_file_name",
            ["", " ", ".", "..", "job_result.json", "logs", "ä" * 200],
            "a file name of at most 255 bytes, and none of failed_items.jsonl",
        ),
        ("append_row_format", ["", "xlsx", "txt", 5], "text, csv, jsonl or parquet"),
        ("allowed_failed_count", [-2, 1.0, True, "1"], "a whole number, -1 (tolerate all) or more"),
        (
            "allowed_failed_percent",
            [-0.1, 100.1, float("nan"), float("inf"), 10**400, True, "5"],
            "a number from 0 to 100",
        ),
        ("environment_variables", [["A"], "A=1"], "a dict of names and texts"),
        ("init_timeout", [0, -1, True, "60"], "a whole number of seconds, 1 or more, or None"),
    ],
)
def test_what_is_refused(name: str, values: list[object], rule: str) -> None:
    for value in values:
        with pytest.raises(InvalidValueError) as refused:
            config(**{name: value})
        assert name in str(refused.value)
        assert f"must be {rule}" in str(refused.value)
        assert refused.value.value in (value, type(value).__name__) or value != value


@pytest.mark.parametrize(
    "variables", [{"": "1"}, {"A=B": "1"}, {1: "1"}, {"PARALLELRUN_X": "1"}, {"A\0": "1"}]
)
def test_names_of_environment_variables(variables: dict[str, str]) -> None:
    with pytest.raises(InvalidValueError, match="a name in environment_variables must be text without '='"):
        config(environment_variables=variables)


def test_a_message_does_not_show_the_text_of_an_environment_variable() -> None:
    with pytest.raises(InvalidValueError, match=r"environment_variables\['A'\] must be text .*, got 5"):
        config(environment_variables={"SECRET": "hunter2", "A": 5})
    with pytest.raises(InvalidValueError, match=r"environment_variables\['SECRET'\]") as refused:
        config(environment_variables={"SECRET": "hunter2\0"})
    assert "hunter2" not in str(refused.value)


def test_the_entry_script_is_inside_the_source_directory() -> None:
    for script in ("/opt/score.py", "../score.py"):
        assert config(entry_script=script).entry_script == script
        with pytest.raises(InvalidValueError, match="entry_script must be a file inside source_directory"):
            config(entry_script=script, source_directory="scripts")


def test_the_file_name_matters_for_append_row_only() -> None:
    assert config(output_action="summary_only", append_row_file_name="a/b").append_row_file_name == "a/b"
    assert config(output_action="summary_only").append_row_file_name is None


@pytest.mark.parametrize("given", [["user", "season"], ("user", "season"), '["user", "season"]'])
def test_partition_keys(given: Any) -> None:
    assert config(partition_keys=given).partition_keys == ["user", "season"]
    parameter = PipelineParameter("keys", given if isinstance(given, str) else list(given))
    assert config(partition_keys=parameter).partition_keys is parameter


@pytest.mark.parametrize("given", [[], "user", '{"a": 1}', ["user", "user"], [1], [""], 5, '["a", 1]'])
def test_what_are_no_partition_keys(given: Any) -> None:
    with pytest.raises(InvalidValueError, match="partition_keys must be a list of the keys, each once"):
        config(partition_keys=given)


def test_partition_keys_or_a_size() -> None:
    with pytest.raises(ConfigurationError, match="mini_batch_size and partition_keys exclude each other"):
        config(partition_keys=["user"], mini_batch_size=5)


@pytest.mark.parametrize(
    ("given", "count", "unit"),
    [
        (None, 1 << 20, "bytes"),
        (1024, 1024, "bytes"),
        ("1024", 1024, "bytes"),
        ("1KB", 1024, "bytes"),
        ("10mb", 10 << 20, "bytes"),
        ("1Gb", 1 << 30, "bytes"),
        ("5000rows", 5000, "rows"),
    ],
)
def test_sizes_of_mini_batches_of_tables(given: Any, count: int, unit: str) -> None:
    size = config(mini_batch_size=given).table_size
    assert (size.count, size.unit) == (count, unit)


@pytest.mark.parametrize(
    ("row_format", "name"), [("text", "txt"), ("csv", "csv"), ("JSONL", "jsonl"), ("Parquet", "parquet")]
)
def test_the_default_file_name_is_the_formats(row_format: str, name: str) -> None:
    made = config(append_row_format=row_format)
    assert (made.append_row_format, made.append_row_file_name) == (
        row_format.lower(),
        f"parallel_run_step.{name}",
    )
    assert config(append_row_format=row_format, append_row_file_name="a.txt").append_row_file_name == "a.txt"
    assert config(append_row_format=row_format, output_action="summary_only").append_row_file_name is None


def test_a_header_of_text_is_none_of_another_format() -> None:
    assert config(append_row_format="text", append_row_dataframe_header=True).append_row_dataframe_header
    for row_format in ("csv", "jsonl", "parquet"):
        given = {"append_row_format": row_format, "append_row_dataframe_header": True}
        with pytest.raises(
            ConfigurationError, match=f"is for append_row_format 'text', and it is '{row_format}'"
        ):
            config(**given)
        config(**given, output_action="summary_only")


@pytest.mark.parametrize("text", ["10", "10KB", "10kb", "1Mb", "2gB", "007"])
def test_sizes(text: str) -> None:
    assert config(mini_batch_size=text).mini_batch_size == text


def test_files_are_counted() -> None:
    assert config(mini_batch_size=7).files_per_mini_batch == 7
    assert config(mini_batch_size="007").files_per_mini_batch == 7
    with pytest.raises(InvalidValueError, match=r"mini_batch_size must be a number .*files are counted"):
        _ = config(mini_batch_size="10KB").files_per_mini_batch


def test_init_may_take_longer_than_run() -> None:
    assert config(run_invocation_timeout=100).init_timeout_s == 330
    assert config(init_timeout=5).init_timeout_s == 5


@pytest.mark.parametrize(("name", "default"), PARAMETERS.items())
def test_where_a_parameter_may_stand(name: str, default: object) -> None:
    parameter = PipelineParameter("chosen", default)
    made = config(**{name: parameter})

    assert getattr(made, name) is parameter
    assert made.pipeline_parameters() == {name: parameter}


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(ParallelRunConfig)])
def test_where_no_parameter_may_stand(name: str) -> None:
    if name in PARAMETERS:
        wrong = PipelineParameter("chosen", "not right")
        rule = rf"{name} \(default_value of PipelineParameter 'chosen'\) must be .*, got 'not right'"
    else:
        wrong = PipelineParameter("chosen", None)
        rule = rf"{name} must be a plain value; PipelineParameter is for allowed_failed_count, .*run_max_try"
    with pytest.raises(InvalidValueError, match=rule):
        config(**{name: wrong})


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("mini_batch_size", "files_per_mini_batch"),
        ("process_count_per_node", "processes_per_node"),
        ("run_invocation_timeout", "init_timeout_s"),
    ],
)
def test_a_parameter_has_no_value_yet(name: str, read: str) -> None:
    made = config(**{name: PipelineParameter("chosen", 5)})
    with pytest.raises(ConfigurationError, match=f"{name} is still PipelineParameter.*when the run starts"):
        getattr(made, read)


configs = st.fixed_dictionaries(
    {
        "error_threshold": st.integers(-1, 10**9),
        "output_action": st.sampled_from(["append_row", "SUMMARY_ONLY"]),
        "node_count": st.integers(1, 10**4),
    },
    optional={
        "process_count_per_node": st.none() | st.integers(1, 512),
        "mini_batch_size": st.none() | st.integers(1) | st.sampled_from(["5", "10KB"]),
        "source_directory": st.none() | st.just("scripts"),
        "description": st.none() | st.text(),
        "logging_level": st.sampled_from(["WARNING", "info", "Debug"]),
        "run_invocation_timeout": st.integers(1),
        "run_max_try": st.integers(1),
        "append_row_file_name": st.none() | st.sampled_from(["out.txt", "Größe 1.csv"]),
        "append_row_format": st.sampled_from(["text", "csv", "JSONL", "parquet"]),
        "allowed_failed_count": st.none() | st.integers(-1),
        "allowed_failed_percent": st.none() | st.floats(0, 100) | st.integers(0, 100),
        "environment_variables": st.dictionaries(st.from_regex("[A-Z]{1,5}", fullmatch=True), st.just("ä=1")),
        "init_timeout": st.none() | st.integers(1),
        "environment": st.sampled_from([Environment(), Environment("tf", "/opt/tf/bin/python")]),
        "compute_target": st.sampled_from([ComputeTarget(), ComputeTarget("gpu"), "cpu"]),
    },
)


@given(configs)
def test_a_configuration_survives_json_and_pickle(values: dict[str, Any]) -> None:
    made = config(**values)

    assert ParallelRunConfig.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert pickle.loads(pickle.dumps(made)) == made


@given(configs, st.sets(st.sampled_from(sorted(PARAMETERS))))
def test_parameters_stay_in_place(values: dict[str, Any], names: set[str]) -> None:
    parameters = {name: PipelineParameter(f"{name}_param", PARAMETERS[name]) for name in names}
    made = config(**(values | parameters))

    assert made.pipeline_parameters() == parameters
    assert ParallelRunConfig.from_dict(made.to_dict()) == made


def test_from_dict_checks_again() -> None:
    document = config().to_dict()

    with pytest.raises(UnknownNameError, match="'node_cuont'; did you mean 'node_count'"):
        ParallelRunConfig.from_dict(document | {"node_cuont": 2})
    with pytest.raises(UnknownNameError, match="'poll'; did you mean 'pool'"):
        ParallelRunConfig.from_dict(document | {"compute_target": {"poll": "gpu"}})
    with pytest.raises(InvalidValueError, match="node_count must be"):
        ParallelRunConfig.from_dict(document | {"node_count": 0})
    del document["node_count"], document["entry_script"]
    with pytest.raises(ConfigurationError, match="ParallelRunConfig lacks entry_script, node_count"):
        ParallelRunConfig.from_dict(document)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Environment(pip_packages=["numpy"]), r"Environment\(pip_packages=\['numpy'\]\)"),
        (lambda: Environment(conda_file="env.yml"), r"Environment\(conda_file='env.yml'\)"),
        (lambda: Environment(docker_image="tf"), r"Environment\(docker_image='tf'\)"),
        (lambda: ComputeTarget(gpus=2), r"ComputeTarget\(gpus=2\)"),
        (lambda: ComputeTarget(node_count=2), r"ParallelRunConfig\(node_count=…\)"),
    ],
)
def test_what_is_not_built(made: Any, message: str) -> None:
    with pytest.raises(NotSupportedError, match="is not supported yet") as refused:
        made()
    assert refused.match(message)


def test_environments_and_targets_are_checked() -> None:
    assert Environment(python=Path("/usr/bin/python3")).python == "/usr/bin/python3"  # type: ignore[arg-type]
    for python in ("python3", "", 5):
        with pytest.raises(InvalidValueError, match=r"Environment\.python must be the absolute path"):
            Environment(python=python)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"Environment\.name must be text, got 5"):
        Environment(name=5)  # type: ignore[arg-type]
    for pool in (" ", 5):
        with pytest.raises(
            InvalidValueError, match=r"ComputeTarget\.pool must be the name of an Airflow pool"
        ):
            ComputeTarget(pool=pool)  # type: ignore[arg-type]


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().node_count = 3  # type: ignore[misc]
    assert dataclasses.replace(config(), node_count=3).node_count == 3


@pytest.mark.parametrize(("given", "size"), [(1, 1), ("512", 512), ("2KB", 2048), ("512mb", 512 << 20)])
def test_the_size_of_the_spool(given: int | str, size: int) -> None:
    assert config(spool_bytes=given).spool_bytes == size


@pytest.mark.parametrize("given", [0, -1, True, None, 1.5, "", "5rows", "1 GB", "0MB"])
def test_no_size_of_a_spool(given: object) -> None:
    with pytest.raises(InvalidValueError, match=r"spool_bytes must be a positive number of bytes, or a size"):
        config(spool_bytes=given)
