# SPDX-License-Identifier: Apache-2.0
"""``parallelrun check``: ``init()``, one mini-batch and ``shutdown()`` in this very process.

So that ``print``, ``breakpoint()`` and Ctrl-C work as in any script: nothing is redirected, copied or timed
out, and no output file is written.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_parallelrun import driver_arguments
from airflow_parallelrun.exceptions import (
    EmptyInputError,
    EntryScriptContractError,
    NotSupportedError,
)

from .command import FAILED, INTERRUPTED
from .inputs import arguments_of, inputs_of, side_inputs_of
from .options import config_of, models_root_of, parse_job

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import TracebackType

    from airflow_parallelrun.config import ParallelRunConfig
    from airflow_parallelrun.engine.questions import Models
    from airflow_parallelrun.worker.loading import Loaded
    from airflow_parallelrun.worker.output import Origin
    from airflow_parallelrun.worker.runtime import EntryScript, Settings
    from airflow_parallelrun.worker.shims import Ask

DESCRIPTION = """\
Calls the script's init(), run() with the first mini-batch of the first input, and shutdown(), all in this
process: print, breakpoint() and Ctrl-C work. Takes the options of run; no output file is written.
"""

_ROWS_SHOWN = 5
_FOR_DEBUGGERS = frozenset({"COLUMNS", "LINES", "PYTHONBREAKPOINT", "TERM"})
_PACKAGE = Path(__file__).parent.parent


def main(given: Sequence[str]) -> int:
    """Run ``parallelrun check`` and return its exit status."""
    parsed = parse_job("check", DESCRIPTION, given)
    config = driver_arguments.apply(config_of(parsed), parsed.script_arguments)
    _refuse_other_interpreter(config.environment.python)
    with tempfile.TemporaryDirectory(prefix="parallelrun-spool-") as spool:
        return _run(parsed, config, _first_mini_batch(parsed, config, spool))


def _run(parsed: argparse.Namespace, config: ParallelRunConfig, loaded: Loaded) -> int:
    from airflow_parallelrun.engine.questions import Models

    if loaded.wrong is not None:
        print(f"parallelrun: {loaded.wrong}", file=sys.stderr)
    if loaded.value is None:
        print("parallelrun: there is nothing in the first mini-batch that run() could get", file=sys.stderr)
        return FAILED
    models_root = models_root_of(parsed.models_root)
    scratch = tempfile.mkdtemp(prefix="parallelrun-check-")
    try:
        with tempfile.TemporaryDirectory(prefix="parallelrun-code-") as spare:
            code = _code(config, os.path.join(spare, "code"))
            config, arguments = _provide(parsed, config, models_root, spare)
            ask = partial(_ask, Models(models_root, config.model))
            _become_a_worker(config, scratch, models_root)
            return _check(_settings(config, arguments, code, scratch), ask, config, loaded)
    finally:
        if any(name for _, _, files in os.walk(scratch) for name in files):
            print(f"the script wrote files to {scratch}")
        else:
            shutil.rmtree(scratch)


def _check(settings: Settings, ask: Ask, config: ParallelRunConfig, loaded: Loaded) -> int:
    from airflow_parallelrun.worker import logs
    from airflow_parallelrun.worker.errors import ContractError, ReturnValueError
    from airflow_parallelrun.worker.output import Origin
    from airflow_parallelrun.worker.runtime import EntryScript

    logging.basicConfig(level=config.logging_level, format=logs.FORMAT)
    os.chdir(settings.source_directory)
    try:
        script = EntryScript(settings, ask)
        _timed("init()", script.load)
        origin = Origin(0, loaded.paths, None, 1)
        value = _timed(f"run() of {len(loaded.paths)} items", script.run, loaded, origin)
        _show(script, value, origin, loaded.items)
        _timed("shutdown()", script.shutdown)
    except ContractError as error:
        raise EntryScriptContractError(config.entry_script, str(error)) from error
    except ReturnValueError as error:
        print(f"parallelrun: {error}", file=sys.stderr)
        return FAILED
    except BaseException as error:  # noqa: BLE001 - user code; also sys.exit() and Ctrl-C show where they came from
        traceback.print_exception(type(error), error, _users_part(error))
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
    return 0


def _become_a_worker(config: ParallelRunConfig, scratch: str, models_root: str | None) -> None:
    """Take on a worker's environment variables: what a script misses there it must miss here."""
    from airflow_parallelrun.engine.pool import worker_environment

    environment = worker_environment(config, f"{scratch}/output", models_root)
    for name in list(os.environ):
        if name not in _FOR_DEBUGGERS:
            del os.environ[name]
    os.environ.update(environment)


def _settings(config: ParallelRunConfig, arguments: list[str], source: str, scratch: str) -> Settings:
    from airflow_parallelrun.worker.runtime import Settings

    return Settings(
        entry_script=os.path.join(source, config.entry_script),
        source_directory=source,
        arguments=arguments,
        append_row=config.output_action == "append_row",
        logging_level=config.logging_level,
        agent_name="process000",
        log_dir=f"{scratch}/logs",
        output_dir=f"{scratch}/output",
        error_log="",
        strict_returns=config.strict_returns,
        provenance_columns=config.provenance_columns,
        dataframe_header=config.append_row_dataframe_header,
        append_row_format=config.append_row_format,
        model=config.model,
    )


def _code(config: ParallelRunConfig, spare: str) -> str:
    """Return the folder of the code: where it is, or a new one with what an archive or a URL holds."""
    from airflow_parallelrun.engine.snapshot import check_entry_script, take, unpack

    source = str(config.source_directory)
    if os.path.isdir(source):
        # Not compiled: Python's own account of a syntax error has more to say.
        check_entry_script(source, config.entry_script, compile_it=False)
        return source
    os.mkdir(spare)
    unpack(take(config, ".")[0].archive, spare)
    return spare


def _provide(
    parsed: argparse.Namespace, config: ParallelRunConfig, models_root: str | None, spare: str
) -> tuple[ParallelRunConfig, list[str]]:
    """Have the model and the side inputs here.

    :return: the configuration and the arguments, as a worker process gets them
    """
    from airflow_parallelrun.engine import side_inputs
    from airflow_parallelrun.engine.provisions import Wanted
    from airflow_parallelrun.models import reference

    if config.model is not None:
        config = replace(config, model=reference.frozen(config.model, models_root))
    asked, arguments = side_inputs_of(parsed), arguments_of(parsed.script_arguments)
    side_inputs.check(asked, config.environment_variables)
    side_inputs.check_arguments(arguments, [str(each.name) for each in asked])
    listed = side_inputs.list_side_inputs(asked, ".")
    wanted = Wanted(spare, config.model, models_root, [each.side_input for each in listed])
    wanted.get(listed)
    return wanted.config(config), wanted.arguments(arguments)


def _ask(models: Models, subject: str, arguments: dict[str, Any]) -> Any:
    """Answer as a node does, and fail as a worker process does."""
    from airflow_parallelrun.engine.questions import answer

    ok, value = answer(models, None, subject, arguments)
    if not ok:
        raise LookupError(value)
    return value


def _first_mini_batch(parsed: argparse.Namespace, config: ParallelRunConfig, spool: str) -> Loaded:
    """Load the first mini-batch of the first input; all are looked at, so that a wrong one shows now.

    :param spool: a folder for what has to be copied from stores
    """
    from airflow_parallelrun.datasets import FilePart
    from airflow_parallelrun.datasets.connections import connected
    from airflow_parallelrun.datasets.copies import Copier
    from airflow_parallelrun.engine import mini_batches
    from airflow_parallelrun.engine.listing_limit import ListingLimit
    from airflow_parallelrun.worker.loading import Loader
    from airflow_parallelrun.worker.spool import Copies

    inputs = [each.resolve(".") for each in inputs_of(parsed)]
    mini_batches.check(config, inputs)
    limit = ListingLimit(config.first_task_creation_timeout)
    cuts = [mini_batches.cut(each, config, limit) for each in inputs]
    firsts = [next(cut.mini_batches, None) for cut in cuts]
    first = firsts[0]
    if first is None:
        raise EmptyInputError(list(inputs[0].paths), inputs[0].item)
    items = [item.item if isinstance(item, FilePart) else [*item] for item in first]
    sources = [connected(cut.source) for cut in cuts]
    if inputs[0].is_staged:
        Copier(sources[0]).make_all(items, Copies(spool, 0))
        sources[0]["spool"] = spool
    return Loader(sources, config.partition_keys or []).load([0, *items])


def _refuse_other_interpreter(python: str | None) -> None:
    own = Path(sys.executable)
    if python is None or (Path(python).parent == own.parent and Path(python).samefile(own)):
        return
    raise NotSupportedError(
        "check with another --python",
        f"Use that interpreter for the command: {python} -m {__package__} check …",
    )


def _timed(what: str, function: Any, *arguments: Any) -> Any:
    started = time.monotonic()
    value = function(*arguments)
    print(f"{what}: {time.monotonic() - started:.3f} s", flush=True)
    return value


def _show(script: EntryScript, value: Any, origin: Origin, items: int) -> None:
    count = script.formatter.count(value, len(origin.paths))
    failed = max(items - count, 0)
    verdict = f": {failed} would count as failed" if failed else ""
    print(f"run() returned a {type(value).__name__} of {count} elements for {items} items{verdict}")
    rows = script.formatter.shown(script.formatter.rows(value, origin)).splitlines()
    if rows:
        print("rows, as they would be written:")
    for row in rows[:_ROWS_SHOWN]:
        print(f"  {row}")
    if len(rows) > _ROWS_SHOWN:
        print(f"  … and {len(rows) - _ROWS_SHOWN} more")


def _users_part(error: BaseException) -> TracebackType | None:
    """Leave out how this package came to call the user's code."""
    part = error.__traceback__
    while part is not None and _is_ours(part.tb_frame.f_code.co_filename):
        part = part.tb_next
    # A syntax error names its place itself; anything else without a frame of the user's is our own mistake.
    return part if part or isinstance(error, SyntaxError) else error.__traceback__


def _is_ours(filename: str) -> bool:
    return Path(filename).is_relative_to(_PACKAGE) or filename.startswith("<frozen importlib")
