# SPDX-License-Identifier: Apache-2.0
"""What ParallelRunOperator accepts; checked when the DAG is parsed, and values from conf when split runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg

from airflow_parallelrun import driver_arguments
from airflow_parallelrun.datasets import DatasetInput, FileDataset, TabularDataset
from airflow_parallelrun.engine import side_inputs as engine_side_inputs
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NotSupportedError
from airflow_parallelrun.parameters import PipelineParameter

if TYPE_CHECKING:
    from airflow_parallelrun.config import ParallelRunConfig

NAME_RULE = "3 to 32 lower-case letters, digits and hyphens, first a letter, last not a hyphen"
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")

# The engine's own words: the original's driver read them from the same command line.
RESERVED_ARGUMENTS = frozenset(
    {
        "allowed_failed_count",
        "allowed_failed_percent",
        "append_row_file_name",
        "error_threshold",
        "logging_level",
        "mini_batch_size",
        "output",
        "output_action",
        "partition_keys",
        "process_count_per_node",
        "run_invocation_timeout",
        "run_max_try",
    }
)


def check_name(task_id: str | None, name: str | None) -> str:
    """Return the step's name, given as ``task_id`` or, as in the original, ``name``."""
    given = task_id if task_id is not None else name
    if given is None or (task_id is not None and name is not None):
        raise ConfigurationError(
            f"ParallelRunOperator needs one name: task_id, or name as ParallelRunStep called it; "
            f"got task_id={task_id!r}, name={name!r}."
        )
    if not isinstance(given, str) or not 3 <= len(given) <= 32 or not _NAME.fullmatch(given):
        raise InvalidValueError("task_id" if name is None else "name", given, NAME_RULE)
    return given


def check_inputs(inputs: object) -> list[DatasetInput]:
    """Return the inputs; a list of at least one ``DatasetInput``."""
    if isinstance(inputs, str) or not isinstance(inputs, Sequence) or not inputs:
        raise InvalidValueError(
            "inputs", inputs, "a list of at least one dataset, such as [dataset.as_mount()]"
        )
    return [_check_input(place, item) for place, item in enumerate(inputs)]


def _check_input(place: int, item: object) -> DatasetInput:
    if isinstance(item, DatasetInput):
        return item
    if isinstance(item, FileDataset | TabularDataset | PipelineParameter):
        rule = "a dataset that says how it is used: add .as_named_input(name); to files, .as_mount() will do"
    else:
        rule = "a dataset, such as Dataset.File.from_files(path).as_mount()"
    raise InvalidValueError(f"inputs[{place}]", item, rule)


def check_side_inputs(side_inputs: object, config: ParallelRunConfig) -> list[DatasetInput]:
    """Return the side inputs; a list of named datasets, whose mode makes no difference."""
    if side_inputs is None:
        return []
    if isinstance(side_inputs, str) or not isinstance(side_inputs, Sequence):
        raise InvalidValueError(
            "side_inputs", side_inputs, 'a list such as [dataset.as_named_input("labels")]'
        )
    engine_side_inputs.check(side_inputs, config.environment_variables)
    return [replace(each, mode="direct") for each in side_inputs]


def check_arguments(arguments: object, side_inputs: Sequence[DatasetInput] = ()) -> list[Any]:
    """Return the script's arguments; keyword style, as the original asks for.

    In place of a dataset that is a side input stands what the node replaces by its path. References (a
    pipeline parameter, the output of another task) stay as they are: their values are checked when split
    runs.
    """
    if arguments is None:
        return []
    if isinstance(arguments, str) or not isinstance(arguments, Sequence):
        raise InvalidValueError("arguments", arguments, 'a list such as ["--threshold", 0.5]')
    checked = [_check_argument(place, item, side_inputs) for place, item in enumerate(arguments)]
    if checked and not (isinstance(checked[0], str) and checked[0].startswith("-")):
        raise InvalidValueError(
            "arguments[0]", checked[0], 'a name such as "--threshold": each value follows its name'
        )
    return checked


def check_driver_arguments(config: ParallelRunConfig, arguments: Sequence[Any]) -> None:
    """Refuse what the arguments say to the original's driver and cannot be, as far as it is known by now.

    The run takes it over when split makes its request.
    """
    known = [item if _is_literal(item) else driver_arguments.LATER for item in arguments]
    driver_arguments.apply(config, known)


def _is_literal(argument: Any) -> bool:
    if isinstance(argument, str):
        return "{{" not in argument and "{%" not in argument
    return isinstance(argument, int | float)


def _check_argument(place: int, item: object, side_inputs: Sequence[DatasetInput]) -> Any:
    for each in side_inputs:
        if _is_same(item, each):
            return engine_side_inputs.argument(str(each.name))
    if isinstance(item, PipelineParameter | XComArg) or _stands_for_side_input(item):
        return item
    if isinstance(item, DatasetInput | FileDataset | TabularDataset):
        raise NotSupportedError(
            f"A dataset among arguments (arguments[{place}]) that is not one of side_inputs",
            "Add it there, pass its path as text, or add it to inputs.",
        )
    if not isinstance(item, str | int | float):
        raise InvalidValueError(f"arguments[{place}]", item, "text or a number")
    word = str(item)
    if word.startswith("--") and (name := word[2:].partition("=")[0]) in RESERVED_ARGUMENTS:
        raise InvalidValueError(
            f"arguments[{place}]",
            item,
            f"another name: --{name} is the step's own, set {name} on ParallelRunConfig or the operator",
        )
    return item


def _is_same(argument: object, side_input: DatasetInput) -> bool:
    if isinstance(argument, DatasetInput):
        return argument.dataset == side_input.dataset and argument.name in (None, side_input.name)
    return isinstance(argument, FileDataset | PipelineParameter) and argument == side_input.dataset


def _stands_for_side_input(argument: object) -> bool:
    return isinstance(argument, dict) and set(argument) == {engine_side_inputs.ARGUMENT}
