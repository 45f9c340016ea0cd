# SPDX-License-Identifier: Apache-2.0
"""Finds the command that was asked for, and turns errors into messages and exit statuses."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from airflow_parallelrun.exceptions import (
    ConfigurationError,
    DatasetError,
    EntryScriptContractError,
    EntryScriptNotFoundError,
    InvalidValueError,
    ModelNotFoundError,
    NotRedrivableError,
    OutputError,
    ParallelRunError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

HELP = """\
usage: parallelrun COMMAND …

Runs an entry script (init() once per process, run(mini_batch) per mini-batch) over many files
in parallel, on this machine and without Airflow.

commands:
  run       split the input into mini-batches, process them, write one output file
  resume    go on with a run that was killed or interrupted, or that failed
  redrive   run what failed in a run that succeeded once more, also with other options or a repaired script
  show      tell where a run stands, what went wrong in it, and what to do next
  check     call init() and run() for one mini-batch in this process, for print and a debugger
  models    register, list and find models

options:
  --help    this text; parallelrun COMMAND --help lists the command's options
  --version

examples:
  parallelrun check score.py --input 'images/*.png'
  parallelrun run score.py --input images --output results
  parallelrun run score.py --input a --input b --output results --process-count-per-node 8 \\
      --error-threshold 10 -- --model mnist
  parallelrun show results
  parallelrun resume results
  parallelrun redrive results --fresh-code
  parallelrun models register mnist ./model --tag stage=production

exit status: 0 done, 1 the job failed, 2 wrong usage or input, 130 interrupted
"""

_PUBLIC = ("run", "resume", "redrive", "show", "check", "models")
_WRONG_INPUT = (
    ConfigurationError,
    DatasetError,
    EntryScriptContractError,
    EntryScriptNotFoundError,
    ModelNotFoundError,
    NotRedrivableError,
    OutputError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(given)
    except ParallelRunError as error:
        complain(describe(error))
        return exit_status(error)
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has gone (… | head); Python must not try to flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0 if given else WRONG_USAGE
    if given[0] == "--version":
        from airflow_parallelrun import __version__

        print(f"parallelrun {__version__}")
        return 0
    name = given[0]
    if name not in (*_PUBLIC, "node"):
        if name.startswith("-"):
            raise UnknownNameError("option", name, ("--help", "--version"))
        raise UnknownNameError("command", name, _PUBLIC)
    status: int = importlib.import_module(f".{name}", __package__).main(given[1:])
    return status


def exit_status(error: ParallelRunError) -> int:
    """Tell wrong usage or input from a job that failed."""
    return WRONG_USAGE if isinstance(error, _WRONG_INPUT) else FAILED


def describe(error: ParallelRunError) -> str:
    """The error's message, with a configuration field under the name of its option."""
    if not isinstance(error, InvalidValueError):
        return str(error)
    from .options import option_of

    return f"{option_of(error.name)} must be {error.rule}, got {error.value!r}."


def complain(message: str) -> None:
    """One message on stderr."""
    print(f"parallelrun: {message}", file=sys.stderr, flush=True)
