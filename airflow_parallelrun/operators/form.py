# SPDX-License-Identifier: Apache-2.0
"""Pipeline parameters as fields of Airflow's Trigger form.

A :class:`PipelineParameter` becomes a Param of the DAG, whose JSON schema Airflow checks before anything
starts, and, in the place where it stood, a reference that Airflow resolves to the typed value: never a Jinja
string, which would turn a list or a number into text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from airflow_parallelrun.datasets import FileDataset, TabularDataset
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError
from airflow_parallelrun.rules import MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import DAG
    from airflow.sdk.definitions.param import DagParam

    from airflow_parallelrun.parameters import PipelineParameter

_COUNT = {"type": "integer", "minimum": 1}
_LIMIT = {"type": "integer", "minimum": -1}

# In the order of the form.
FIELD_SCHEMAS: Mapping[str, dict[str, Any]] = {
    # A pattern does not bind integers and a minimum does not bind text: both stand here. Its $ also matches
    # before a line break, which the form's text area lets people type.
    "mini_batch_size": {
        "type": ["string", "integer"],
        "minimum": 1,
        "pattern": r"^0*[1-9][0-9]*([kKmMgG][bB]|rows)?(?!\n)$",
    },
    "partition_keys": {
        "type": ["string", "array"],
        "minItems": 1,
        "items": {"type": "string", "minLength": 1},
    },
    "node_count": _COUNT,
    "process_count_per_node": _COUNT,
    "run_invocation_timeout": _COUNT,
    "run_max_try": _COUNT,
    "error_threshold": _LIMIT,
    "allowed_failed_count": _LIMIT,
    "allowed_failed_percent": {"type": "number", "minimum": 0, "maximum": 100},
    "logging_level": {"type": "string", "enum": ["DEBUG", "INFO", "WARNING"]},
    "model": {
        "type": "string",
        "pattern": rf"^({MODEL})(?!\n)$",
    },
}

DATASET_SCHEMA: Mapping[str, Any] = {
    "type": ["string", "array"],
    "minLength": 1,
    "minItems": 1,
    "items": {"type": "string", "minLength": 1},
}

# What stands below a field, for whoever presses Trigger; the place that it stands for follows in brackets.
_HELP = {
    "inputs": 'A file, a folder or a glob; several as a JSON list: ["/data/a", "/data/b"]',
    "side_inputs": "A file, a folder or a glob that every process has; several as a JSON list",
    "arguments": "An argument of the entry script",
    "mini_batch_size": "Files in one mini-batch; of a table bytes or rows, such as 64KB or 5000rows",
    "partition_keys": 'Keys that make a mini-batch, as a JSON list: ["user", "season"]',
    "node_count": "Nodes, each a task of its own",
    "process_count_per_node": "Worker processes on each node",
    "run_invocation_timeout": "Seconds that one run() may take",
    "run_max_try": "Tries for each mini-batch, the first included",
    "error_threshold": "Items that may fail; -1 for any number",
    "allowed_failed_count": "Mini-batches that may fail; -1 for any number",
    "allowed_failed_percent": "Percentage of the mini-batches that may fail",
    "logging_level": "What of the entry script's output the task log shows",
    "model": "A registered model: mnist for its latest version, mnist:3, or models:/mnist/3 of MLflow",
}

# What None stands for, where it is the default.
_EMPTY = {
    "mini_batch_size": "10 files, or 1MB of a table",
    "partition_keys": "mini-batches by size",
    "process_count_per_node": "one for each CPU",
    "run_invocation_timeout": "60",
    "run_max_try": "3",
    "allowed_failed_count": "no such limit",
    "allowed_failed_percent": "no such limit",
    "logging_level": "INFO",
    "model": "none",
}

_ARGUMENT_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}

_SECTION = "Parallel run: "
# What people see; two fields with the same rules are one, whatever their headings.
_PRESENTATION = ("title", "section")
_NO_DEFAULT = Param().value


@dataclass(frozen=True)
class Place:
    """Where a parameter stands.

    :param setting: ``mini_batch_size``, ``inputs``, ``arguments``, …
    :param name: the same, or which of several: ``inputs[0]``, ``--threshold``
    :param step: the operator's name
    """

    setting: str
    name: str
    step: str

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.name} of {self.step}"


def argument_schema(parameter: PipelineParameter) -> dict[str, Any]:
    """Return the schema of a script argument: the type of its default; text or a number without one.

    :raises InvalidValueError: when the default is neither text nor a number
    """
    if parameter.is_required:
        return {"type": ["string", "number"]}
    kind = _ARGUMENT_TYPES.get(type(parameter.default_value))
    if kind is None:
        rule = "text or a number, to stand among arguments"
        raise InvalidValueError(
            f"the default_value of the pipeline parameter {parameter.name!r}", parameter.default_value, rule
        )
    return {"type": kind}


def add_field(dag: DAG, parameter: PipelineParameter, schema: Mapping[str, Any], place: Place) -> DagParam:
    """Make the parameter a field of the DAG's form and return the reference that stands for its value.

    :param schema: the JSON schema of its values
    :raises ConfigurationError: when the DAG has another field of that name, or a schedule and no default
    """
    if parameter.is_required and dag.timetable.can_be_scheduled:
        # Airflow's own check is over: it is part of the DAG's constructor.
        raise ConfigurationError(
            f"the pipeline parameter {parameter.name!r} ({place}) has no default_value, and the DAG "
            f"{dag.dag_id!r} has a schedule: the runs that it starts would have no value. Give it a "
            "default_value, or set schedule=None and trigger the DAG with a value."
        )
    field = _field(parameter, schema, place)
    if parameter.name in dag.params:
        _merge(dag, parameter.name, field, place)
    else:
        dag.params[parameter.name] = field
    return dag.param(parameter.name)


def _field(parameter: PipelineParameter, schema: Mapping[str, Any], place: Place) -> Param:
    help_text = _HELP[place.setting]
    shown = {"title": parameter.name, "section": f"{_SECTION}{place.step}"}
    if parameter.is_required:
        return Param(description=f"{help_text} ({place}).", schema={**schema, **shown})
    default = _form_value(parameter.default_value, schema)
    if default is None:
        schema, help_text = _nullable(schema), f"{help_text}; empty: {_EMPTY[place.setting]}"
    return Param(default, description=f"{help_text} ({place}).", schema={**schema, **shown})


def _merge(dag: DAG, name: str, field: Param, place: Place) -> None:
    """Let one field stand for two places, if it would be the same in both."""
    known = dag.params.get_param(name)
    is_ours = str(known.schema.get("section")).startswith(_SECTION)
    if (known.value, _rules(known)) != (field.value, _rules(field)):
        remedy = "Give one of them another name, or both the same default."
        if not is_ours:
            remedy = "Leave it out of the DAG's params, where this step puts it, or give one another name."
        raise ConfigurationError(
            f"the pipeline parameter {name!r} ({place}) is already a parameter of the DAG "
            f"{dag.dag_id!r} with another type, range or default: {_describe(known)} there, "
            f"{_describe(field)} here. {remedy}"
        )
    if is_ours:
        known.description = f"{known.description} Also {place}."


def _form_value(value: Any, schema: Mapping[str, Any]) -> Any:
    """A Param must be JSON: a dataset shows as its path or paths. A choice must be one of those offered."""
    if isinstance(value, FileDataset | TabularDataset):
        return value.paths[0] if len(value.paths) == 1 else list(value.paths)
    return value.upper() if "enum" in schema and isinstance(value, str) else value


def _nullable(schema: Mapping[str, Any]) -> dict[str, Any]:
    types = schema["type"]
    nullable = {**schema, "type": [*([types] if isinstance(types, str) else types), "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable


def _rules(param: Param) -> dict[str, Any]:
    return {key: value for key, value in param.schema.items() if key not in _PRESENTATION}


def _describe(param: Param) -> str:
    default = "no default" if param.value is _NO_DEFAULT else f"default {param.value!r}"
    rules = {key: value for key, value in _rules(param).items() if key != "items"}
    return f"{default}, {rules}"
