# SPDX-License-Identifier: Apache-2.0
"""``parallelrun resume``: go on with a run where it stopped."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from airflow_parallelrun.exceptions import ConfigurationError

from .command import complain
from .parser import CommandParser
from .run import conclude, run_plan, summarise
from .run_directory import add_run_directory, is_airflows, plan_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_parallelrun.engine.plan import Plan

DESCRIPTION = """\
Goes on with a run that was killed or interrupted, that failed, or that left mini-batches behind. Those that
failed and those that nobody finished are run; those that succeeded are not. Script, options and files are
those of the run; thresholds start afresh if it has failed. Then it ends as `parallelrun run` does.

Exit status: 0 done, 1 the job failed, 2 wrong usage or input, 130 interrupted.
"""

_OTHERS_SHOWN = 5


def main(given: Sequence[str]) -> int:
    """Run ``parallelrun resume`` and return its exit status."""
    started = time.monotonic()
    parser = CommandParser("resume", DESCRIPTION)
    add_run_directory(parser)
    plan = plan_of(parser.parse(given))
    _refuse_airflows(plan)
    return _resume(plan, started)


def _resume(plan: Plan, started: float) -> int:
    from airflow_parallelrun.engine import ownership
    from airflow_parallelrun.engine.amendment import amended, in_force
    from airflow_parallelrun.engine.outputs import output_of
    from airflow_parallelrun.engine.rounds import sealed_rounds
    from airflow_parallelrun.engine.standing import is_judged, mini_batches_left, published_result

    open_round = sealed_rounds(plan.store)
    left = mini_batches_left(plan)
    print(f"run directory: {plan.run_dir}", file=sys.stderr)
    print(f"{left} of {plan.mini_batches} mini-batches are left to do", file=sys.stderr, flush=True)
    if not left and is_judged(plan):
        result = published_result(plan)
        if result is not None and result["verdict"] != "failed":
            print("the job has succeeded before, and its output is there", file=sys.stderr, flush=True)
            summarise(result)
            return 0
        return conclude(plan, [], started)
    _name_others(plan)
    output = output_of(plan)
    if output is not None:
        # Before hours of work: the folder may have been removed, and another run may have taken it.
        results = ownership.result_names(plan.config.append_row_file_name)
        # A redrive ends in a success, as it began: until then the result of before is true.
        anew = in_force(plan.store, open_round) is None
        output.take(results, anew)
    return run_plan(amended(plan, open_round), started)


def _refuse_airflows(plan: Plan) -> None:
    """Airflow's tries and this command would take the nodes from each other."""
    if is_airflows(plan):
        raise ConfigurationError(
            f"{plan.run_dir!r} is a run of Airflow ({plan.owner}): clear its failed tasks there, "
            "with downstream, to go on with it."
        )


def _name_others(plan: Plan) -> None:
    """Say who has to give way: each node stops when it sees that it has a newer attempt."""
    from airflow_parallelrun.engine.standing import AT_WORK, starts

    at_work = [start for start in starts(plan) if start.state == AT_WORK]
    others = [f"node {start.attempt} (process {start.pid})" for start in at_work]
    if others:
        shown = ", ".join(others[:_OTHERS_SHOWN]) + (", …" if len(others) > _OTHERS_SHOWN else "")
        complain(
            f"another command seems to be at work on this run: {shown}. This one takes over; "
            "what the other has committed is kept, and it stops by itself within seconds."
        )
