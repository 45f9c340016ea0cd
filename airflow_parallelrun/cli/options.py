# SPDX-License-Identifier: Apache-2.0
"""The options that ``run`` and ``check`` share: one for every field of ParallelRunConfig."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EntryScriptNotFoundError,
    InvalidValueError,
    NotSupportedError,
)
from airflow_parallelrun.filesystems import is_remote

from .inputs import add_input_options, arguments_of, inputs_of, side_inputs_of
from .parser import (
    CommandParser,
    comma_separated,
    name_and_value,
    number,
    split_script_arguments,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from airflow_parallelrun.config import ParallelRunConfig
    from airflow_parallelrun.engine.split import RunRequest

NOT_OPTIONS = ("entry_script", "compute_target")

# ParallelRunConfig requires these; a command that needs three more options every time would be a nuisance.
DEFAULTS: dict[str, Any] = {"error_threshold": 0, "output_action": "append_row", "node_count": 1}


@dataclasses.dataclass(frozen=True)
class FieldOption:
    """How a field of ParallelRunConfig is typed.

    :param help: what it does, its unit, and its default where that is not a plain value
    :param parse: from text; range and rules are ParallelRunConfig's own
    :param option: its name, where it is not the field's
    :param repeated: every use adds one value
    :param flag: it takes no value; ``--no-…`` switches it off
    """

    help: str
    metavar: str = "N"
    parse: Callable[[str], Any] = str
    option: str = ""
    repeated: bool = False
    flag: bool = False


THIS_MACHINE = "local"
# The owner of a run of this command; an Airflow run is owned by DAG, run and step.
OWNER_PREFIX = "cli/"

FIELD_OPTIONS: dict[str, FieldOption] = {
    "environment": FieldOption(
        "interpreter that runs the entry script (default: the one of this command)", "PATH", option="--python"
    ),
    "error_threshold": FieldOption(
        "failed items to tolerate; the job fails above it; -1 tolerates all", parse=whole_number
    ),
    "output_action": FieldOption(
        "append_row: rows into one file; summary_only: the script writes its own output", "ACTION"
    ),
    "compute_target": FieldOption(
        f"where it runs; this command knows {THIS_MACHINE!r} only, pools are Airflow's", "TARGET"
    ),
    "node_count": FieldOption("nodes, each a process of its own that feeds its workers", parse=whole_number),
    "process_count_per_node": FieldOption(
        "worker processes per node (default: one per CPU of this command)", parse=whole_number
    ),
    "mini_batch_size": FieldOption(
        "files per run() (default: 10); of a table bytes (default: 1MB) or rows, such as 64KB or 5000rows",
        "SIZE",
    ),
    "source_directory": FieldOption(
        "folder that is copied with the entry script (default: the entry script's own); if it is an archive "
        "or a URL, ENTRY_SCRIPT is relative to it",
        "DIR",
    ),
    "description": FieldOption("free text, kept with the run", "TEXT"),
    "logging_level": FieldOption("of the script's logs, and shows them: WARNING, INFO or DEBUG", "LEVEL"),
    "run_invocation_timeout": FieldOption("seconds that one run() may take", "SECONDS", whole_number),
    "run_max_try": FieldOption("tries per mini-batch", parse=whole_number),
    "append_row_file_name": FieldOption(
        "name of the output file (default: parallel_run_step.txt, or as the format: .csv, .jsonl, .parquet)",
        "NAME",
    ),
    "allowed_failed_count": FieldOption(
        "failed mini-batches to tolerate; -1 tolerates all (default: no such limit)", parse=whole_number
    ),
    "allowed_failed_percent": FieldOption(
        "failed mini-batches to tolerate, 0 to 100 percent of all (default: no such limit)", "PERCENT", number
    ),
    "partition_keys": FieldOption(
        "one mini-batch for each combination of what these keys of --partition-format are",
        "KEY,…",
        comma_separated,
    ),
    "environment_variables": FieldOption(
        "set for the entry script; may be repeated", "NAME=VALUE", name_and_value, repeated=True
    ),
    "init_timeout": FieldOption(
        "seconds that init() may take (default: 3 times --run-invocation-timeout, plus 30)",
        "SECONDS",
        whole_number,
    ),
    "task_overhead_timeout": FieldOption(
        "seconds for each of loading a mini-batch and writing its rows", "SECONDS", whole_number
    ),
    "progress_update_timeout": FieldOption(
        "seconds without a finished mini-batch after which the job is aborted (default: no such limit)",
        "SECONDS",
        whole_number,
    ),
    "first_task_creation_timeout": FieldOption(
        "seconds that listing the input may take (default: no such limit)", "SECONDS", whole_number
    ),
    "resource_monitor_interval": FieldOption(
        "seconds between two samples of memory, processors and disks; 0: none", "SECONDS", whole_number
    ),
    "append_row_dataframe_header": FieldOption(
        "the names of a DataFrame's columns in the output file's first line", flag=True
    ),
    "profiling_module": FieldOption("profile every process: cProfile or profile", "MODULE"),
    "shutdown_timeout": FieldOption("seconds that shutdown() may take", "SECONDS", whole_number),
    "start_method": FieldOption("of worker processes: auto, fork or exec", "METHOD"),
    "append_row_format": FieldOption("of the rows: text, csv, jsonl or parquet", "FORMAT"),
    "append_row_order": FieldOption("of the rows: input, or any, whatever is fastest", "ORDER"),
    "strict_returns": FieldOption("more elements than items are an error of the mini-batch", flag=True),
    "retry_short_returns": FieldOption(
        "try a mini-batch again that came back with fewer elements than items", flag=True
    ),
    "bisect_failures": FieldOption(
        "halve a mini-batch whose last try failed, until what fails is alone", flag=True
    ),
    "spool_bytes": FieldOption(
        "of inputs in stores a node copies no more ahead of need; bytes, or such as 512MB (default: 4GB)",
        "SIZE",
    ),
    "provenance_columns": FieldOption(
        "a column behind every row: mini_batch, source, row, try or model_version; may be repeated",
        "NAME",
        repeated=True,
    ),
    "model": FieldOption(
        "a registered model, which the script finds in the folder AZUREML_MODEL_DIR: mnist:3, mnist for the "
        "latest version, or models:/mnist/3 of MLflow",
        "NAME[:VERSION]",
    ),
}


def option_of(field: str) -> str:
    """The option that sets *field*; names that are no field stay as they are."""
    spec = FIELD_OPTIONS.get(field)
    if spec is None:
        return field
    return spec.option or "--" + field.replace("_", "-")


def parse_job(command: str, description: str, given: Sequence[str]) -> argparse.Namespace:
    """Parse what ``run`` and ``check`` take; the script's arguments are in ``script_arguments``."""
    own, script_arguments = split_script_arguments(given)
    parser = CommandParser(
        command, description, "Everything after -- is for the script, which finds it in sys.argv."
    )
    parser.usage = f"{parser.prog} ENTRY_SCRIPT --input PATH … [options] [-- script arguments]"
    parser.add_argument("entry_script", metavar="ENTRY_SCRIPT", help="Python file with init() and run()")
    _add_data_options(parser)
    if command == "run":
        _add_reuse_options(parser)
    add_field_options(parser, [name for name in FIELD_OPTIONS if name not in NOT_OPTIONS])
    parsed = parser.parse(own)
    parsed.script_arguments = script_arguments
    return parsed


def _add_data_options(parser: CommandParser) -> None:
    add_input_options(parser)
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the results; one run's own (default: a new one in RUN_DIRECTORY_ROOT/outputs)",
    )
    group.add_argument(
        "--run-directory-root",
        metavar="DIR",
        help="where run directories go, and what runs keep for later ones (default: OUTPUT/.parallelrun)",
    )
    group.add_argument(
        "--models-root", metavar="DIR", help="folder of the model registry (default: see parallelrun models)"
    )


def _add_reuse_options(parser: CommandParser) -> None:
    group = parser.add_argument_group("earlier runs, with --run-directory-root")
    group.add_argument(
        "--step",
        metavar="NAME",
        help="what runs that belong together are called there (default: by the entry script's path)",
    )
    group.add_argument(
        "--allow-reuse",
        action="store_true",
        help="run nothing where an earlier run has come to the same, and its output is there",
    )
    group.add_argument(
        "--only-new",
        action="store_true",
        help="leave out the files that an earlier successful run of the step has processed",
    )


def add_field_options(parser: CommandParser, names: Collection[str], told_defaults: bool = True) -> None:
    """Add the options of these fields.

    :param told_defaults: whether the help says what holds without one
    """
    from airflow_parallelrun.config import ParallelRunConfig

    group = parser.add_argument_group("how it runs")
    for field in dataclasses.fields(ParallelRunConfig):
        if field.name not in names:
            continue
        spec = FIELD_OPTIONS[field.name]
        default = DEFAULTS.get(field.name, field.default)
        text = spec.help
        if not told_defaults:
            text = text.partition(" (default:")[0]
        elif isinstance(default, (int, str)) and not spec.flag and " (default:" not in text:
            text = f"{text} (default: {default})"
        text = text.replace("%", "%%")
        options = [option_of(field.name)]
        if spec.flag:
            group.add_argument(*options, action=argparse.BooleanOptionalAction, help=text)
            continue
        if spec.repeated:
            options.append(options[0].removesuffix("s"))
        group.add_argument(
            *options,
            dest=field.name,
            action="append" if spec.repeated else "store",
            type=spec.parse,
            metavar=spec.metavar,
            help=text,
        )


def config_of(parsed: argparse.Namespace) -> ParallelRunConfig:
    """The configuration that the options ask for, validated.

    :raises ConfigurationError: for a value that can never work
    """
    from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig

    names = {field.name for field in dataclasses.fields(ParallelRunConfig)}
    given = {name: value for name, value in vars(parsed).items() if name in names and value is not None}
    source, script = _source_and_script(parsed.entry_script, parsed.source_directory)
    if given.get("compute_target", THIS_MACHINE) != THIS_MACHINE:
        raise NotSupportedError(
            f"--compute-target {given['compute_target']!r}", "Leave it out; to run in a pool, use Airflow."
        )
    given |= {"source_directory": source, "entry_script": script, "compute_target": ComputeTarget()}
    given["environment"] = Environment(python=_interpreter(parsed.environment))
    if "environment_variables" in given:
        given["environment_variables"] = dict(given["environment_variables"])
    return ParallelRunConfig(**(DEFAULTS | given))


def amended_config(parsed: argparse.Namespace, config: ParallelRunConfig) -> ParallelRunConfig:
    """A configuration with what the options change in it, validated.

    A variable that is given is added to the others, or takes the place of the one of its name.

    :raises ConfigurationError: for a value that can never work
    """
    from airflow_parallelrun.config import Environment

    names = {field.name for field in dataclasses.fields(config)}
    given = {name: value for name, value in vars(parsed).items() if name in names and value is not None}
    if "environment" in given:
        given["environment"] = Environment(python=_interpreter(given["environment"]))
    if "environment_variables" in given:
        given["environment_variables"] = config.environment_variables | dict(given["environment_variables"])
    return dataclasses.replace(config, **given)


def _source_and_script(entry_script: str, source_directory: str | None) -> tuple[str, str]:
    if source_directory is not None and not os.path.isdir(source_directory):
        # A file, an archive or a URL, which split looks into.
        elsewhere = is_remote(source_directory)
        return source_directory if elsewhere else os.path.abspath(source_directory), entry_script
    # Not resolved: a link is run under the name that was typed.
    script = Path(os.path.abspath(entry_script))
    if source_directory is None:
        if not script.parent.is_dir():
            raise EntryScriptNotFoundError(script.name, str(script.parent))
        return str(script.parent), script.name
    source = os.path.abspath(source_directory)
    if not script.is_relative_to(source):
        raise InvalidValueError("ENTRY_SCRIPT", entry_script, f"a file in --source-directory {source!r}")
    return source, str(script.relative_to(source))


def _interpreter(given: str | None) -> str | None:
    if given is None:
        return None
    found = shutil.which(given)
    if found is None:
        raise InvalidValueError("--python", given, "an interpreter's path, or the name of one on PATH")
    return os.path.abspath(found)


def request_of(parsed: argparse.Namespace) -> RunRequest:
    """What the engine's split takes.

    :raises ConfigurationError: for a value that can never work
    """
    from airflow_parallelrun.engine.split import RunRequest
    from airflow_parallelrun.engine.steps import StepRun

    if not parsed.output and not parsed.run_directory_root:
        raise ConfigurationError(
            "--output is missing: the folder for the results, or --run-directory-root to make one in"
        )
    if parsed.allow_reuse and not parsed.run_directory_root:
        raise ConfigurationError(
            "--allow-reuse needs --run-directory-root, the folder in which runs leave word of successes."
        )
    token = secrets.token_hex(6)
    run = time.strftime("%Y%m%dT%H%M%SZ-", time.gmtime()) + token
    return RunRequest(
        config=config_of(parsed),
        inputs=inputs_of(parsed),
        output=parsed.output,
        arguments=tuple(arguments_of(parsed.script_arguments)),
        side_inputs=side_inputs_of(parsed),
        owner=f"{OWNER_PREFIX}{token}",
        base_directory=str(Path.cwd()),
        models_root=models_root_of(parsed.models_root),
        storage_root=parsed.run_directory_root,
        step_run=StepRun(OWNER_PREFIX.rstrip("/"), run, _step(parsed)),
        allow_reuse=parsed.allow_reuse,
    )


def _step(parsed: argparse.Namespace) -> str:
    """Return the name of the step, which no two scripts share unless they are told to."""
    if parsed.step:
        return str(parsed.step)
    path = os.path.abspath(parsed.entry_script)
    return f"{Path(path).stem}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"


def models_root_of(given: str | None) -> str | None:
    """The registry's folder; None where none is configured, which most scripts never notice."""
    from airflow_parallelrun.models import absolute_folder, models_root

    try:
        return absolute_folder(given) if given else models_root()
    except ConfigurationError:
        return None
