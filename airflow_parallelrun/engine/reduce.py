# SPDX-License-Identifier: Apache-2.0
"""Reduce: seal the round, count, judge, and publish. It reads storage alone, and can be repeated."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import ownership, processed, report, successes
from airflow_parallelrun.engine.assembly import assemble
from airflow_parallelrun.engine.job_report import JobReport
from airflow_parallelrun.engine.ledger import Counts, Ledger
from airflow_parallelrun.engine.leftovers import remove_temporaries
from airflow_parallelrun.engine.outputs import output_of, seal_of
from airflow_parallelrun.engine.plan import read_plan
from airflow_parallelrun.engine.rounds import is_last, seal
from airflow_parallelrun.engine.standing import published_result
from airflow_parallelrun.engine.verdict import judge, not_redriven
from airflow_parallelrun.exceptions import OutputError, VerdictError
from airflow_parallelrun.filesystems import is_remote

if TYPE_CHECKING:
    from airflow_parallelrun.engine.outputs import Output
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.report import JobResult
    from airflow_parallelrun.engine.rounds import Seal

logger = logging.getLogger(__name__)


class _OvertakenError(Exception):
    """A later round was sealed while this one was being published."""


def reduce(run_dir: str) -> JobResult:
    """Judge a run, and publish its output if it succeeded.

    :param run_dir: the run directory
    :raises ThresholdExceededError: when more failed than was tolerated
    :raises UnprocessedError: when mini-batches are left that no node finished
    :raises NothingToAppendError: when output_action is append_row and there is no row
    :raises NotRedrivenError: when a redrive was cut short; the output is published all the same
    :raises OutputOwnedError: when the output folder belongs to another run by now
    :raises OutputExistsError: when a file of another origin is in the way
    :raises StorageError: when the run directory cannot be read or the output not written
    """
    result, failure = settle(run_dir)
    if failure is not None:
        raise failure
    return result


def settle(run_dir: str) -> tuple[JobResult, VerdictError | None]:
    """Do what :func:`reduce` does, but return what it would raise for a verdict beside the result.

    ``job_result.json`` is written last, also for a failed job; its presence says that the rest is there.
    """
    plan = read_plan(run_dir)
    _sweep(plan)  # before anything is written: the disk may be full of what one that was killed has left
    while True:
        try:
            settled = _conclude(plan, seal(plan.store))
        except _OvertakenError:
            logger.info("a later round was sealed meanwhile; judging that one")
        else:
            _sweep(plan)
            return settled


def _sweep(plan: Plan) -> None:
    for folder in (plan.run_dir, *([ownership.folder(plan.output)] if plan.output else [])):
        if not is_remote(folder):
            remove_temporaries(folder)


def _conclude(plan: Plan, sealed: Seal) -> tuple[JobResult, VerdictError | None]:
    """Judge a round, and publish the verdict."""
    started = time.monotonic()
    with JobReport(plan) as job_report:
        ledger = Ledger.read(plan, sealed, told=job_report.add)
        result, failure = judge(plan, sealed, ledger)
        _log_counts(sealed.round, result.counts)
        try:
            output = output_of(plan)
            if output is None:
                job_report.publish()
            else:
                result = _publish_all(plan, output, ledger, result, started, job_report)
        except OutputError as error:
            if failure is None:
                raise
            # Why the job failed says more than why that cannot be written.
            logger.error("the result was not published: %s", error)
    if failure is None:
        processed.record(plan, ledger, sealed.round)
        successes.record(plan, result)
    return result, failure or not_redriven(plan, sealed, ledger)


def _log_counts(round_: int, counts: Counts) -> None:
    logger.info(
        "round %d is sealed: of %d mini-batches %d succeeded, %d are short, %d failed, %d are left; %d rows",
        round_,
        counts.mini_batches,
        counts.succeeded,
        counts.short,
        counts.failed,
        counts.unprocessed,
        counts.rows,
    )


def _publish_all(
    plan: Plan, output: Output, ledger: Ledger, result: JobResult, started: float, job_report: JobReport
) -> JobResult:
    """Publish what the verdict calls for, and take back what an earlier one left that it does not."""

    def check() -> None:
        if not is_last(plan.store, result.round):
            raise _OvertakenError

    check()
    name = plan.config.append_row_file_name
    has_output = result.verdict != "failed" and plan.append_row
    # The folder may have been removed since split, and another run may have taken it.
    # A reduce that is repeated comes to the same result, and somebody may be reading the one that is there.
    anew = published_result(plan) is None
    output.take(ownership.result_names(name if has_output else None), anew)
    seal_ = seal_of(plan, result.round)
    job_report.publish()
    if ledger.has_problems:
        with output.publishing(ownership.FAILED_ITEMS, seal_) as file:
            file.writelines(report.failed_item_lines(plan, ledger.problems()))
            check()
        result = replace(result, failed_items_file=output.path(ownership.FAILED_ITEMS))
    else:
        output.retract(ownership.FAILED_ITEMS)
    if name and has_output:
        result = replace(result, output_file=assemble(plan, output, ledger, name, seal_, check))
    elif name and output.is_published(name):
        output.retract(name)
    result.durations["reduce_s"] = round(time.monotonic() - started, 3)
    result.durations["total_s"] += round(result.durations["reduce_s"])
    with output.publishing(ownership.RESULT, seal_) as file:
        file.write(result.to_json())
        check()
    check()  # a later verdict may have come between the check and the name; then it is published again
    return result
