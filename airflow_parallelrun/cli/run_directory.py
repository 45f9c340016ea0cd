# SPDX-License-Identifier: Apache-2.0
"""Finds the run that a command is about."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from airflow_parallelrun.exceptions import InvalidValueError

from .options import OWNER_PREFIX

if TYPE_CHECKING:
    import argparse

    from airflow_parallelrun.engine.plan import Plan


def add_run_directory(parser: argparse.ArgumentParser) -> None:
    """Add the argument RUN_DIR."""
    parser.add_argument(
        "run_directory",
        metavar="RUN_DIR",
        help="the run directory, as `parallelrun run` has printed it; or the output folder of its results",
    )


def plan_of(parsed: argparse.Namespace) -> Plan:
    """Read the plan of the run in RUN_DIR.

    :raises InvalidValueError: when there is none, or there are several
    """
    from airflow_parallelrun.engine.plan import read_plan

    return read_plan(find_run_directory(parsed.run_directory))


def find_run_directory(given: str) -> str:
    """Find the run directory: *given*, the one that a result in *given* names, or the only one in *given*.

    :raises InvalidValueError: when there is none, or there are several
    """
    from airflow_parallelrun.engine import names, ownership
    from airflow_parallelrun.engine.object_store import store_at
    from airflow_parallelrun.filesystems import is_remote

    folder = given.rstrip("/") if is_remote(given) else os.path.abspath(os.path.expanduser(given))
    if store_at(folder).exists(names.PLAN):
        return folder
    below = [f"{folder}/{ownership.FOLDER}", folder]
    inside = [f"{parent}/{name}" for parent in below for name in store_at(parent).folders()]
    found = sorted((path for path in inside if store_at(path).exists(names.PLAN)), key=os.path.basename)
    if not found and store_at(folder).exists(ownership.RESULT):
        named = json.loads(store_at(folder).read(ownership.RESULT))["run_dir"]
        found = [named] if store_at(named).exists(names.PLAN) else []
    if not found:
        rule = "a run directory (`parallelrun run` prints it when it starts), or an output folder with one"
        raise InvalidValueError("RUN_DIR", given, rule)
    if len(found) > 1:
        rule = f"one run directory: this folder has {len(found)}, of which the newest is {found[-1]!r}"
        raise InvalidValueError("RUN_DIR", given, rule)
    return found[0]


def is_airflows(plan: Plan) -> bool:
    """Tell whether a run is one of Airflow's, and not of this command."""
    return not plan.owner.startswith(OWNER_PREFIX)


def airflows_names(plan: Plan) -> tuple[str, str, str]:
    """Return DAG, run and step of a run of Airflow's."""
    dag_id, _, rest = plan.owner.partition("/")
    run_id, _, step = rest.rpartition("/")
    return dag_id, run_id, step


def redrive_call(plan: Plan) -> str:
    """Return how to have a run of Airflow's redriven."""
    dag_id, run_id, _ = airflows_names(plan)
    return f"trigger the DAG {dag_id} with the conf {json.dumps({'redrive_of': run_id})}"
