# SPDX-License-Identifier: Apache-2.0
"""How a job runs: the original's ``ParallelRunConfig``, validated when it is made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, InitVar, asdict, dataclass, field, fields
from typing import Any, Protocol, TypeVar, cast

from airflow_parallelrun import rules
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InvalidValueError,
    NotSupportedError,
    UnknownNameError,
)
from airflow_parallelrun.parameters import PipelineParameter

T = TypeVar("T")

DEFAULT_FILES_PER_MINI_BATCH = 10
DEFAULT_TABLE_MINI_BATCH_SIZE = "1MB"
DEFAULT_APPEND_ROW_STEM = "parallel_run_step"
DEFAULT_SPOOL_BYTES = 4 << 30
TEXT, CSV, JSONL, PARQUET = "text", "csv", "jsonl", "parquet"
INPUT_ORDER, ANY_ORDER = "input", "any"
AUTO, FORK, EXEC = "auto", "fork", "exec"

_REQUIRED: Any = MISSING
_NONE: Any = None
_CHECKED: Any = object()


class _Settable(Protocol[T]):
    # For type checkers only: a field that reads as T and may be set to a PipelineParameter as well, so that
    # neither a DAG file nor the engine, which sees resolved configurations only, needs a cast.
    def __get__(self, config: object, owner: object) -> T: ...

    def __set__(self, config: object, value: T | PipelineParameter) -> None: ...


@dataclass(frozen=True)
class Environment:
    """The interpreter that runs the entry script.

    :param name: shown in logs
    :param python: absolute path of a Python interpreter; None = the one that runs the node
    :param pip_packages: not supported yet, nor are *conda_file* and *docker_image*
    :raises InvalidValueError: for a relative interpreter path
    :raises NotSupportedError: when packages or an image are asked for
    """

    name: str = ""
    python: str | None = None
    pip_packages: InitVar[Any] = None
    conda_file: InitVar[Any] = None
    docker_image: InitVar[Any] = None

    def __post_init__(self, pip_packages: Any, conda_file: Any, docker_image: Any) -> None:
        """Check, and refuse what this version does not build."""
        asked = {"pip_packages": pip_packages, "conda_file": conda_file, "docker_image": docker_image}
        instead = "Make an environment that has what the script needs, and give its interpreter: python=…"
        _refuse("Environment", asked, instead)
        rules.text("Environment.name", self.name)
        if self.python is not None:
            python = os.fspath(self.python) if isinstance(self.python, os.PathLike) else self.python
            if not isinstance(python, str) or not os.path.isabs(python):
                raise InvalidValueError("Environment.python", python, "the absolute path of an interpreter")
            object.__setattr__(self, "python", python)


@dataclass(frozen=True)
class TableSize:
    """How large a mini-batch of a table is, about.

    :param count: bytes or rows
    :param unit: ``bytes`` or ``rows``
    """

    count: int
    unit: str


@dataclass(frozen=True)
class ComputeTarget:
    """Where the nodes run.

    :param pool: the Airflow pool that limits how many nodes run at once
    :param gpus: not supported yet, nor is *node_count*
    :raises NotSupportedError: when GPUs or a node count are asked for
    """

    pool: str = "default_pool"
    gpus: InitVar[Any] = None
    node_count: InitVar[Any] = None

    def __post_init__(self, gpus: Any, node_count: Any) -> None:
        """Check, and refuse what this version does not build."""
        _refuse("ComputeTarget", {"gpus": gpus}, "Run the nodes in a pool or queue whose machines have them.")
        _refuse("ComputeTarget", {"node_count": node_count}, "Set it in ParallelRunConfig(node_count=…).")
        rules.pool("ComputeTarget.pool", self.pool)


@dataclass(frozen=True)
class ParallelRunConfig:
    """How the script runs, by the original's names, defaults and ranges.

    A ``PipelineParameter`` may stand for every number but ``init_timeout``, for ``mini_batch_size``, for
    ``partition_keys`` (as a list, or as JSON text), ``logging_level`` and ``model``; its default is checked
    at once, the value of a run when the run starts. None means the default wherever the original accepts it.

    :param environment: the interpreter of the script
    :param entry_script: Python file with ``init()`` and ``run()``, relative to *source_directory*
    :param error_threshold: failed items to tolerate; the job fails above it; -1 tolerates all
    :param output_action: ``append_row`` (what ``run()`` returns, in one file) or ``summary_only``
    :param compute_target: a ``ComputeTarget``, or the name of an Airflow pool
    :param node_count: nodes, each an Airflow task; processes in all = nodes x *process_count_per_node*
    :param process_count_per_node: None = one for each CPU that the node may use
    :param mini_batch_size: files per ``run()``, None = 10; of a table bytes, such as 1024, ``"64KB"`` or
        ``"10MB"``, None = ``"1MB"``, or ``"5000rows"``
    :param source_directory: what every process gets a copy of: a folder, a Python file, a ``.zip`` or
        ``.tar.gz`` archive, or a URL of one of these; without what its ``.amlignore`` or ``.gitignore`` names
    :param description: free text
    :param logging_level: of what reaches the task log: WARNING, INFO or DEBUG
    :param run_invocation_timeout: seconds that one ``run()`` may take; None = 60
    :param run_max_try: tries per mini-batch, the first included; None = 3
    :param append_row_file_name: the output file's name, without a folder; None = ``parallel_run_step.txt``,
        or with the ending of *append_row_format*
    :param allowed_failed_count: failed mini-batches to tolerate; -1 tolerates all; None = no such limit
    :param allowed_failed_percent: failed mini-batches to tolerate, 0 to 100 percent; None = no such limit
    :param partition_keys: one mini-batch for each combination of values that these keys of the inputs'
        ``partition_format`` have; in place of *mini_batch_size*
    :param environment_variables: set for the script
    :param init_timeout: seconds that ``init()`` may take; None = 3 x *run_invocation_timeout* + 30

    Next come the hidden arguments of the original's driver, under their names there:

    :param task_overhead_timeout: seconds for each of loading a mini-batch and writing its rows
    :param progress_update_timeout: seconds without a finished mini-batch in the whole job after which it is
        aborted; None = no limit beside those of ``init()`` and ``run()``
    :param first_task_creation_timeout: seconds that listing the input may take; None = no limit
    :param resource_monitor_interval: seconds between two samples of a node's memory, processors and disks; 0
        takes none
    :param append_row_dataframe_header: the names of a DataFrame's columns in the output file's first line
    :param profiling_module: ``cProfile`` or ``profile`` to profile every process; None = neither

    And what the original does not have:

    :param shutdown_timeout: seconds that ``shutdown()`` may take
    :param start_method: how worker processes are started: ``exec``; ``fork``, from a process that has
        imported the script's libraries; ``auto``, which forks where these are known to bear it
    :param append_row_format: ``text`` (the original's bytes), ``csv``, ``jsonl`` or ``parquet``
    :param append_row_order: ``input`` (the order of the sorted input) or ``any``, whatever is fastest
    :param strict_returns: more elements than items are an error of the mini-batch
    :param retry_short_returns: a mini-batch that came back with fewer elements is tried again, too
    :param bisect_failures: a mini-batch whose last try failed is halved until what fails is alone
    :param spool_bytes: of what lies in stores a node copies no more ahead of need, in bytes or as a size such
        as ``"512MB"``; a mini-batch that is larger is copied alone
    :param provenance_columns: columns behind every row: ``mini_batch``, ``source``, ``row``, ``try``,
        ``model_version``
    :param model: a registered model for the script, which finds it in the folder ``AZUREML_MODEL_DIR``:
        ``"mnist:3"``, ``"mnist"`` for the version that is the latest when the run starts, or an MLflow URI
        such as ``"models:/mnist/3"``

    :raises InvalidValueError: for a value outside its range
    :raises NotSupportedError: for what the original has and this version does not

    Where it differs from the original (SDK v1), and why:

    - A boolean is not a number (the original took ``True`` as 1): a slip, never a wish.
    - ``mini_batch_size`` of 0 or less is refused (the original took it and failed later, or never ended).
    - ``mini_batch_size`` such as "10kbmb" or with a trailing newline is refused by rule, not by accident.
    - ``node_count`` is checked everywhere (the original checked it for its own clusters only).
    - ``logging_level`` is checked, in any case (the original passed any text on).
    - ``process_count_per_node`` unset is one per usable CPU, the later of the original's two documents.
    - ``error_threshold``, ``allowed_failed_count`` and ``allowed_failed_percent`` may be pipeline parameters.
    - ``entry_script`` must lie inside the source directory, if one is given, and the output file's name must
      not be one that the run itself writes: both are refused here rather than when the job is over.
    - ``append_row_file_name`` has no effect with ``summary_only``, as in the original; nor has
      ``append_row_format``.
    - ``environment_variables`` must be text; names that start with ``PARALLELRUN_`` are ours.
    - ``init_timeout`` is ours: the original gives up after the same time, without a parameter for it.
    """

    environment: Environment
    entry_script: str
    error_threshold: _Settable[int] = field(default=_REQUIRED)
    output_action: str = field(default=_REQUIRED)
    compute_target: ComputeTarget | str = field(default=_REQUIRED)
    node_count: _Settable[int] = field(default=_REQUIRED)
    process_count_per_node: _Settable[int | None] = field(default=_NONE)
    mini_batch_size: _Settable[int | str | None] = field(default=_NONE)
    source_directory: str | None = None
    description: str | None = None
    logging_level: _Settable[str] = field(default=cast("Any", "INFO"))
    run_invocation_timeout: _Settable[int] = field(default=cast("Any", 60))
    run_max_try: _Settable[int] = field(default=cast("Any", 3))
    append_row_file_name: str | None = None
    allowed_failed_count: _Settable[int | None] = field(default=_NONE)
    allowed_failed_percent: _Settable[float | None] = field(default=_NONE)
    partition_keys: _Settable[list[str] | None] = field(default=_NONE)
    environment_variables: dict[str, str] = field(default_factory=dict)
    init_timeout: int | None = None
    task_overhead_timeout: int = 600
    progress_update_timeout: int | None = None
    first_task_creation_timeout: int | None = None
    resource_monitor_interval: int = 600
    append_row_dataframe_header: bool = False
    profiling_module: str | None = None
    shutdown_timeout: int = 30
    start_method: str = AUTO
    append_row_format: str = TEXT
    append_row_order: str = INPUT_ORDER
    strict_returns: bool = False
    retry_short_returns: bool = False
    bisect_failures: bool = False
    provenance_columns: tuple[str, ...] = ()
    model: _Settable[str | None] = field(default=_NONE)
    spool_bytes: int = DEFAULT_SPOOL_BYTES

    def __post_init__(self) -> None:
        """Check and normalise every field."""
        for name, rule in _RULES.items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), rule))
        if self.source_directory is not None:
            rules.inside("entry_script", self.entry_script)
        sizes = self.partition_keys, self.mini_batch_size
        if None not in sizes and not any(isinstance(size, PipelineParameter) for size in sizes):
            raise ConfigurationError(
                "mini_batch_size and partition_keys exclude each other: with keys a mini-batch has all that "
                "their values have in common. Leave one of them out."
            )
        if self.output_action == "append_row":
            self._check_append_row()

    def _check_append_row(self) -> None:
        if self.append_row_format != TEXT and self.append_row_dataframe_header:
            raise ConfigurationError(
                f"append_row_dataframe_header is for append_row_format {TEXT!r}, and it is "
                f"{self.append_row_format!r}, where every column has its name anyway. Leave one of them out."
            )
        name = self.append_row_file_name
        if name is None:
            ending = "txt" if self.append_row_format == TEXT else self.append_row_format
            name = f"{DEFAULT_APPEND_ROW_STEM}.{ending}"
        object.__setattr__(self, "append_row_file_name", rules.file_name(name))

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON; pipeline parameters are left in place."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        plain = {
            "environment": asdict(self.environment),
            "compute_target": {"pool": self.pool},
            "environment_variables": dict(self.environment_variables),
            "provenance_columns": list(self.provenance_columns),
        }
        return values | plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ParallelRunConfig:
        """Make it from what ``to_dict`` gave, and check everything again.

        :raises UnknownNameError: for a key that is no field
        :raises ConfigurationError: for a field that is missing or wrong
        """
        given = dict(values)
        for name, kind in (("environment", Environment), ("compute_target", ComputeTarget)):
            if isinstance(given.get(name), Mapping):
                given[name] = _build(kind, given[name])
        made: ParallelRunConfig = _build(cls, given)
        return made

    def pipeline_parameters(self) -> dict[str, PipelineParameter]:
        """The pipeline parameters in it, by the field where each stands."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: value for name, value in values if isinstance(value, PipelineParameter)}

    @property
    def pool(self) -> str:
        """The Airflow pool of the nodes."""
        target = self.compute_target
        return target if isinstance(target, str) else target.pool

    @property
    def files_per_mini_batch(self) -> int:
        """How many files one ``run()`` gets.

        :raises InvalidValueError: for a size with a unit, which is for tables
        """
        size = self._resolved("mini_batch_size")
        if size is None:
            return DEFAULT_FILES_PER_MINI_BATCH
        if isinstance(size, str) and not size.isdecimal():
            raise InvalidValueError(
                "mini_batch_size", size, "a number such as 10: files are counted, not sized"
            )
        return int(size)

    @property
    def table_size(self) -> TableSize:
        """How large a mini-batch of a table is."""
        count, unit = rules.size(self._resolved("mini_batch_size") or DEFAULT_TABLE_MINI_BATCH_SIZE)
        return TableSize(count, "rows") if unit == "rows" else TableSize(count * rules.UNITS[unit], "bytes")

    @property
    def init_timeout_s(self) -> int:
        """Seconds that ``init()`` may take."""
        return self.init_timeout or 3 * int(self._resolved("run_invocation_timeout")) + 30

    @property
    def processes_per_node(self) -> int:
        """Worker processes per node; unless set, one for each CPU that this process may use."""
        count = self._resolved("process_count_per_node")
        return int(count) if count is not None else _usable_cpus()

    @property
    def threads_per_process(self) -> int:
        """The CPUs of the node, shared among its processes; 1 at the least."""
        return max(1, _usable_cpus() // self.processes_per_node)

    def _resolved(self, name: str) -> Any:
        value = getattr(self, name)
        if isinstance(value, PipelineParameter):
            raise ConfigurationError(f"{name} is still {value!r}; it gets its value when the run starts.")
        return value


@dataclass(frozen=True)
class _Rule:
    check: rules.Check
    # What None stands for; _CHECKED: it is a value like any other.
    none: Any = _CHECKED
    parameter: bool = False


def _checked(name: str, value: Any, rule: _Rule) -> Any:
    if isinstance(value, PipelineParameter):
        if not rule.parameter:
            allowed = ", ".join(sorted(other for other in _RULES if _RULES[other].parameter))
            raise InvalidValueError(name, value, f"a plain value; PipelineParameter is for {allowed}")
        where = f"{name} (default_value of PipelineParameter {value.name!r})"
        if not value.is_required:
            _checked(where, value.default_value, rule)
        return value
    if value is None and rule.none is not _CHECKED:
        return rule.none
    return rule.check(name, value)


def _compute_target(name: str, value: Any) -> ComputeTarget:
    return value if isinstance(value, ComputeTarget) else ComputeTarget(rules.pool(name, value))


_RULES: dict[str, _Rule] = {
    "environment": _Rule(rules.must_be("an Environment", lambda value: isinstance(value, Environment))),
    "entry_script": _Rule(rules.path),
    "error_threshold": _Rule(rules.tolerated, parameter=True),
    "output_action": _Rule(rules.one_of(str.lower, "append_row", "summary_only")),
    "compute_target": _Rule(_compute_target),
    "node_count": _Rule(rules.count, parameter=True),
    "process_count_per_node": _Rule(rules.some_count, None, parameter=True),
    "mini_batch_size": _Rule(rules.mini_batch_size, None, parameter=True),
    "source_directory": _Rule(rules.path, None),
    "description": _Rule(rules.text, None),
    "logging_level": _Rule(rules.one_of(str.upper, "WARNING", "INFO", "DEBUG"), "INFO", parameter=True),
    "run_invocation_timeout": _Rule(rules.seconds, 60, parameter=True),
    "run_max_try": _Rule(rules.whole(1, "a whole number of tries, 1 or more"), 3, parameter=True),
    "append_row_file_name": _Rule(rules.text, None),
    "allowed_failed_count": _Rule(rules.tolerated, None, parameter=True),
    "allowed_failed_percent": _Rule(rules.percent, None, parameter=True),
    "partition_keys": _Rule(rules.partition_keys, None, parameter=True),
    "environment_variables": _Rule(rules.environment_variables),
    "init_timeout": _Rule(rules.some_seconds, None),
    "task_overhead_timeout": _Rule(rules.seconds, 600),
    "progress_update_timeout": _Rule(rules.some_seconds, None),
    "first_task_creation_timeout": _Rule(rules.some_seconds, None),
    "resource_monitor_interval": _Rule(rules.whole(0, "a whole number of seconds, 0 (none) or more"), 600),
    "append_row_dataframe_header": _Rule(rules.flag, False),
    "profiling_module": _Rule(rules.one_of(str, "cProfile", "profile"), None),
    "shutdown_timeout": _Rule(rules.seconds, 30),
    "start_method": _Rule(rules.one_of(str.lower, AUTO, FORK, EXEC), AUTO),
    "append_row_format": _Rule(rules.one_of(str.lower, TEXT, CSV, JSONL, PARQUET), TEXT),
    "append_row_order": _Rule(rules.one_of(str.lower, INPUT_ORDER, ANY_ORDER), INPUT_ORDER),
    "strict_returns": _Rule(rules.flag, False),
    "retry_short_returns": _Rule(rules.flag, False),
    "bisect_failures": _Rule(rules.flag, False),
    "provenance_columns": _Rule(rules.provenance_columns, ()),
    "model": _Rule(rules.model, parameter=True),
    "spool_bytes": _Rule(rules.size_in_bytes),
}


def _refuse(owner: str, asked: Mapping[str, Any], instead: str) -> None:
    for name, value in asked.items():
        if value is not None:
            raise NotSupportedError(f"{owner}({name}={value!r})", instead)


def _build(kind: Any, given: Mapping[str, Any]) -> Any:
    known = {item.name: item for item in fields(kind)}
    for name in given:
        if name not in known:
            raise UnknownNameError("parameter", name, known)
    required = {item.name for item in known.values() if item.default is item.default_factory is MISSING}
    if missing := sorted(required - given.keys()):
        raise ConfigurationError(f"{kind.__name__} lacks {', '.join(missing)}.")
    return kind(**given)


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
