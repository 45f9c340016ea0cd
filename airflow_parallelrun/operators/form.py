# SPDX-License-Identifier: Apache-2.0
"""Pipeline parameters as fields of Airflow's Trigger form.

A :class:`PipelineParameter` becomes a Param of the DAG, whose JSON schema Airflow checks before anything
starts, and, in the place where it stood, a reference that Airflow resolves to the typed value: never a Jinja
string, which would turn a list or a number into text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import DAG
    from airflow.sdk.definitions.param import DagParam

    from airflow_parallelrun.parameters import PipelineParameter

_COUNT = {"type": "integer", "minimum": 1}
_LIMIT = {"type": "integer", "minimum": -1}

FIELD_SCHEMAS: Mapping[str, dict[str, Any]] = {
    # A pattern does not bind integers and a minimum does not bind text: both stand here.
    "mini_batch_size": {
        "type": ["string", "integer"],
        "minimum": 1,
        "pattern": "^0*[1-9][0-9]*([kKmMgG][bB])?$",
    },
    "node_count": _COUNT,
    "process_count_per_node": _COUNT,
    "run_invocation_timeout": _COUNT,
    "run_max_try": _COUNT,
    "error_threshold": _LIMIT,
    "allowed_failed_count": _LIMIT,
    "allowed_failed_percent": {"type": "number", "minimum": 0, "maximum": 100},
    "logging_level": {"type": "string", "enum": ["DEBUG", "INFO", "WARNING"]},
}

DATASET_SCHEMA: Mapping[str, Any] = {
    "type": ["string", "array"],
    "minLength": 1,
    "minItems": 1,
    "items": {"type": "string", "minLength": 1},
}

# What stands below a field, for whoever presses Trigger; the place that it stands for follows in brackets.
_HELP = {
    "inputs": "A file, a folder or a glob; several as a JSON list",
    "arguments": "An argument of the entry script",
    "mini_batch_size": "Files in one mini-batch",
    "node_count": "Nodes, each a task of its own",
    "process_count_per_node": "Worker processes on each node",
    "run_invocation_timeout": "Seconds that one run() may take",
    "run_max_try": "Tries for each mini-batch",
    "error_threshold": "Items that may fail; -1 for any number",
    "allowed_failed_count": "Mini-batches that may fail; -1 for any number",
    "allowed_failed_percent": "Percentage of the mini-batches that may fail",
    "logging_level": "What of the entry script's output the task log shows",
}

_ARGUMENT_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def argument_schema(parameter: PipelineParameter) -> dict[str, Any]:
    """Return the schema of a script argument: the type of its default.

    :raises InvalidValueError: when the default is neither text nor a number
    """
    kind = _ARGUMENT_TYPES.get(type(parameter.default_value))
    if kind is None:
        rule = "text or a number, to stand among arguments"
        raise InvalidValueError(
            f"the default_value of the pipeline parameter {parameter.name!r}", parameter.default_value, rule
        )
    return {"type": kind}


def add_field(
    dag: DAG, parameter: PipelineParameter, schema: Mapping[str, Any], place: str, step: str
) -> DagParam:
    """Make the parameter a field of the DAG's form and return the reference that stands for its value.

    :param schema: the JSON schema of its values
    :param place: where the value goes: ``mini_batch_size``, ``inputs[0]``, …
    :param step: the operator's name
    :raises ConfigurationError: when the DAG has another field of that name
    """
    name, default = parameter.name, _form_value(parameter.default_value, schema)
    place_of_step = f"{place} of {step}"
    help_text = f"{_HELP[place.partition('[')[0]]} ({place_of_step})."
    param = Param(default, description=help_text, title=name, **_nullable(schema, default))
    known = dag.params.get_param(name) if name in dag.params else None
    if known is None:
        dag.params[name] = param
    elif (known.value, known.schema) != (param.value, param.schema):
        raise ConfigurationError(
            f"the pipeline parameter {name!r} ({place_of_step}) is already a parameter of the DAG "
            f"{dag.dag_id!r} with another type, range or default: {_describe(known)} there, "
            f"{_describe(param)} here. Give it a name of its own, or the same default in both places."
        )
    return dag.param(name)


def _form_value(value: Any, schema: Mapping[str, Any]) -> Any:
    """A Param must be JSON: a dataset shows as its path or paths. A choice must be one of those offered."""
    if isinstance(value, FileDataset):
        return value.paths[0] if len(value.paths) == 1 else list(value.paths)
    return value.upper() if "enum" in schema and isinstance(value, str) else value


def _nullable(schema: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """Let None through where it is the default."""
    if default is not None:
        return dict(schema)
    types = schema["type"]
    nullable = {**schema, "type": [*([types] if isinstance(types, str) else types), "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable


def _describe(param: Param) -> str:
    rules = {key: value for key, value in param.schema.items() if key not in ("title", "items")}
    return f"default {param.value!r}, {rules}"
