# SPDX-License-Identifier: Apache-2.0
"""The original driver's hidden arguments, where the original took them: among the script's own."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airflow_parallelrun import driver_arguments
from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
from airflow_parallelrun.driver_arguments import LATER, apply, take_back, tell_without_effect
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NotSupportedError


def config(**values: Any) -> ParallelRunConfig:
    """A config that says only what a test asks for."""
    required = {
        "environment": Environment(),
        "entry_script": "score.py",
        "error_threshold": 0,
        "output_action": "append_row",
        "compute_target": ComputeTarget(),
        "node_count": 1,
    }
    return ParallelRunConfig(**{**required, **values})


def changes(*arguments: Any, **values: Any) -> dict[str, Any]:
    """What the arguments make of a configuration, as far as it differs."""
    before, after = config(**values).to_dict(), apply(config(**values), arguments).to_dict()
    return {name: value for name, value in after.items() if value != before[name]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--task_overhead_timeout", "900"], {"task_overhead_timeout": 900}),
        (["--task_overhead_timeout", 900], {"task_overhead_timeout": 900}),
        (["--progress_update_timeout=518400"], {"progress_update_timeout": 518400}),
        (["--first_task_creation_timeout", "+1"], {"first_task_creation_timeout": 1}),
        (["--resource_monitor_interval=0"], {"resource_monitor_interval": 0}),
        (["--append_row_dataframe_header", "True"], {"append_row_dataframe_header": True}),
        (["--append_row_dataframe_header=tRUE"], {"append_row_dataframe_header": True}),
        (["--append_row_dataframe_header", True], {"append_row_dataframe_header": True}),
        (["--append_row_dataframe_header", "False"], {}),
        (["--profiling_module", "cProfile"], {"profiling_module": "cProfile"}),
        (["--resource_monitor_interval", "5", "--resource_monitor_interval=7"],
         {"resource_monitor_interval": 7}),
        (["--model", "m", "--task_overhead_timeout", "9", "--profiling_module=profile", "-v"],
         {"task_overhead_timeout": 9, "profiling_module": "profile"}),
    ],
)  # fmt: skip
def test_they_set_the_configuration(arguments: list[Any], expected: dict[str, Any]) -> None:
    assert changes(*arguments) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--resource_monitor_interva", "20"],  # as the original's own samples have it
        ["--resource-monitor-interval", "20"],
        ["resource_monitor_interval", "20"],
        ["--error_threshold", "5", "--mini_batch_size=3", "--logging_level", "loud"],
        ["--shutdown_timeout", "x", "--init_timeout", "x"],  # ours, not the driver's
        ["--copy_logs_to_parent", "True", "--push_metrics_to_parent", "--metrics_name_prefix=p"],
        ["--rank_mini_batch_count", "0"],
        ["--rank_mini_batch_count=-1"],
        ["--task_overhead_timeout", LATER, "--progress_update_timeout", LATER, LATER],
    ],
)
def test_all_others_are_the_scripts(arguments: list[Any]) -> None:
    assert changes(*arguments) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task_overhead_timeout", "soon"],
         "--task_overhead_timeout must be a whole number of seconds, 1 or more, got 'soon'"),
        (["--task_overhead_timeout=0"],
         "--task_overhead_timeout must be a whole number of seconds, 1 or more, got '0'"),
        (["--task_overhead_timeout", 1.5], "1 or more, got '1.5'"),
        (["--progress_update_timeout", "-1"], "--progress_update_timeout must be a whole number"),
        (["--first_task_creation_timeout", "True"], "--first_task_creation_timeout must be a whole number"),
        (["--resource_monitor_interval", "9" * 5000], "--resource_monitor_interval must be a whole number"),
        (["--append_row_dataframe_header", "yes"],
         "--append_row_dataframe_header must be True or False, got 'yes'"),
        (["--append_row_dataframe_header", "1"], "--append_row_dataframe_header must be True or False"),
        (["--profiling_module", "cprofile"], "--profiling_module must be cProfile or profile, got 'cpro"),
        (["--profiling_module="], "--profiling_module must be cProfile or profile, got ''"),
        (["--profiling_module"], "--profiling_module must be followed by its value"),
        (["--profiling_module", "--model"], "--profiling_module must be followed by its value"),
        (["--rank_mini_batch_count", "many"], "--rank_mini_batch_count must be a whole number, got 'many'"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_by_name(arguments: list[Any], message: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        apply(config(), arguments)
    assert message in str(caught.value)


def test_a_run_over_no_input_is_refused_with_another_way() -> None:
    with pytest.raises(
        NotSupportedError, match=r"--rank_mini_batch_count 8 is not .*a folder of 8 small files"
    ):
        apply(config(), ["--rank_mini_batch_count", 8])


def test_two_answers_to_one_question_are_refused_and_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        apply(config(task_overhead_timeout=5), ["--task_overhead_timeout", "6"])
    assert "task_overhead_timeout is 5 in the configuration, and --task_overhead_timeout 6" in str(
        caught.value
    )
    assert changes("--task_overhead_timeout", "5", task_overhead_timeout=5) == {}
    assert changes("--task_overhead_timeout", LATER, task_overhead_timeout=5) == {}


def test_it_can_be_applied_again() -> None:
    arguments = ["--profiling_module", "profile", "--resource_monitor_interval=0"]
    once = apply(config(), arguments)
    assert apply(once, arguments) == once


def test_what_they_have_set_can_be_taken_back() -> None:
    arguments = ["--task_overhead_timeout", "900", "--profiling_module=profile", "--model", "mnist"]
    applied = apply(config(resource_monitor_interval=7), arguments)
    kept = take_back(applied, arguments, ("task_overhead_timeout", "resource_monitor_interval"))
    assert kept == config(resource_monitor_interval=7, profiling_module="profile")


def test_what_has_no_effect_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=driver_arguments.__name__)
    tell_without_effect(["--model", "m"])
    assert caplog.records == []
    tell_without_effect(["--copy_logs_to_parent", "True", "--metrics_name_prefix=p", "--model", "m"])
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "--copy_logs_to_parent, --metrics_name_prefix: without effect; a run"
    )
