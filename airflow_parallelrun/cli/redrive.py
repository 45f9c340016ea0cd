# SPDX-License-Identifier: Apache-2.0
"""``parallelrun redrive``: run what failed in a run that succeeded once more."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_parallelrun import driver_arguments
from airflow_parallelrun.exceptions import ConfigurationError, NotRedrivableError

from .command import complain, exit_status
from .inputs import arguments_of
from .options import FIELD_OPTIONS, NOT_OPTIONS, OWNER_PREFIX, add_field_options, amended_config, option_of
from .parser import CommandParser, split_script_arguments
from .run import conclude, run_plan, show_logs, summarise, to_go_on
from .run_directory import add_run_directory, is_airflows, plan_of, redrive_call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_parallelrun.config import ParallelRunConfig
    from airflow_parallelrun.engine.plan import Plan

DESCRIPTION = """\
Runs the mini-batches that failed or came back short in a run that succeeded, within what it tolerates, once
more. Their rows go into the same output file, which is replaced as a whole when they are done; until then it
is as it was. Script and options are those of the run, unless others are given.

Exit status: 0 done, 1 some were not run again, 2 wrong usage or input, 130 interrupted.
"""
_KEPT = "cannot be changed: input, mini-batches, thresholds and the form of the output stay the run's"


def main(given: Sequence[str]) -> int:
    """Run ``parallelrun redrive`` and return its exit status."""
    started = time.monotonic()
    parsed = _parse(given)
    from airflow_parallelrun.engine.amendment import amended
    from airflow_parallelrun.engine.redrive import RedriveRequest, redrive
    from airflow_parallelrun.engine.rounds import sealed_rounds
    from airflow_parallelrun.models import absolute_folder

    plan = plan_of(parsed)
    _refuse_airflows(plan)
    last = amended(plan, sealed_rounds(plan.store))
    request = RedriveRequest(
        by=f"{OWNER_PREFIX}{secrets.token_hex(6)}",
        config=_config(parsed, last),
        arguments=tuple(
            last.arguments if parsed.script_arguments is None else arguments_of(parsed.script_arguments)
        ),
        models_root=absolute_folder(parsed.models_root) if parsed.models_root else last.models_root,
        fresh_code=parsed.fresh_code,
    )
    if parsed.logging_level:
        show_logs(request.config.logging_level)
    try:
        asked = redrive(plan.run_dir, request)
    except NotRedrivableError as error:
        complain(f"{error} {to_go_on(plan)}")
        return exit_status(error)
    print(f"run directory: {plan.run_dir}", file=sys.stderr)
    if not asked.mini_batches:
        return _tell_that_nothing_failed(plan, started)
    told = f"{asked.mini_batches} of {plan.mini_batches} mini-batches ({asked.items} items) are run again"
    print(told, file=sys.stderr, flush=True)
    return run_plan(asked.plan, started)


def _parse(given: Sequence[str]) -> argparse.Namespace:
    from airflow_parallelrun.engine.amendment import HOW_IT_RUNS

    own, script_arguments = split_script_arguments(given)
    parser = CommandParser("redrive", DESCRIPTION, "Arguments after -- take the place of the script's.")
    parser.usage = f"{parser.prog} RUN_DIR [--fresh-code] [options] [-- script arguments]"
    add_run_directory(parser)
    parser.add_argument(
        "--fresh-code",
        action="store_true",
        help="copy the source directory again, as it is now (default: the run's own copy)",
    )
    parser.add_argument("--models-root", metavar="DIR", help="folder of the model registry")
    changeable = set(HOW_IT_RUNS) - {*NOT_OPTIONS, "source_directory"}
    add_field_options(parser, changeable, told_defaults=False)
    for name in (
        "--input",
        "--output",
        *(option_of(name) for name in FIELD_OPTIONS if name not in changeable),
    ):
        parser.add_argument(name, action=_Kept, nargs="?", help=argparse.SUPPRESS)
    parsed = parser.parse(own)
    parsed.script_arguments = script_arguments if "--" in given else None
    return parsed


def _config(parsed: argparse.Namespace, last: Plan) -> ParallelRunConfig:
    """Return how it is run, with what arguments of the script have set before taken back, and set now."""
    from airflow_parallelrun.engine.amendment import HOW_IT_RUNS

    if parsed.script_arguments is None:
        return driver_arguments.apply(amended_config(parsed, last.config), last.arguments)
    base = driver_arguments.take_back(last.config, last.arguments, HOW_IT_RUNS)
    config = driver_arguments.apply(amended_config(parsed, base), parsed.script_arguments)
    for name in driver_arguments.FIELDS:
        if name not in HOW_IT_RUNS and getattr(config, name) != getattr(last.config, name):
            raise ConfigurationError(f"--{name} among the script's arguments: {_KEPT}.")
    return config


class _Kept(argparse.Action):
    """An option of ``run`` that says why it is none here."""

    def __call__(self, parser: argparse.ArgumentParser, *_given: Any) -> NoReturn:
        raise argparse.ArgumentError(self, _KEPT)


def _refuse_airflows(plan: Plan) -> None:
    """Its result belongs to Airflow's tasks, and those behind them."""
    if is_airflows(plan):
        raise ConfigurationError(
            f"{plan.run_dir!r} is a run of Airflow ({plan.owner}): {redrive_call(plan)} instead."
        )


def _tell_that_nothing_failed(plan: Plan, started: float) -> int:
    from airflow_parallelrun.engine.standing import published_result

    print("no mini-batch has failed or come back short: there is nothing to run again", file=sys.stderr)
    result = published_result(plan)
    if result is None:
        return conclude(plan, [], started)
    summarise(result)
    return 0
