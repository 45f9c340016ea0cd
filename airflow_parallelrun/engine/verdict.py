# SPDX-License-Identifier: Apache-2.0
"""The verdict: what a ledger comes to, and why. Nothing is written here."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import budget, report
from airflow_parallelrun.engine.amendment import in_force, run_since
from airflow_parallelrun.engine.budget import Failures
from airflow_parallelrun.engine.ledger import FAILED, SHORT, UNPROCESSED, Counts, Ledger
from airflow_parallelrun.engine.report import JobResult
from airflow_parallelrun.engine.standing import starts
from airflow_parallelrun.exceptions import (
    NothingToAppendError,
    NotRedrivenError,
    ThresholdExceededError,
    UnprocessedError,
    VerdictError,
)

if TYPE_CHECKING:
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Seal

_SHOWN = 5


def count(plan: Plan, seal: Seal, ledger: Ledger) -> JobResult:
    """Return the result of a round as if nothing that was tolerated had been exceeded.

    :param seal: of the round, or what the round has now
    :param ledger: as read from what the seal names
    """
    counts = ledger.counts()
    clean = counts.items_failed == 0 and counts.failed == 0 and counts.short == 0
    return JobResult(
        verdict="succeeded" if clean else "succeeded with errors",
        reason="",
        output=plan.output,
        output_file=None,
        failed_items_file=None,
        logs=plan.logs,
        run_dir=plan.run_dir,
        plan_id=plan.plan_id,
        round=seal.round,
        counts=counts,
        thresholds=budget.thresholds(plan.config),
        durations=_durations(plan, seal),
        error_groups=report.group_errors(plan, ledger.problems()),
    )


def judge(plan: Plan, seal: Seal, ledger: Ledger) -> tuple[JobResult, VerdictError | None]:
    """Return the result of a sealed round, and why the job has failed; None when it has not."""
    result = count(plan, seal, ledger)
    failure = _failure(plan, ledger, result)
    if failure is not None:
        result = replace(result, verdict="failed", reason=str(failure))
    return result, failure


def not_redriven(plan: Plan, seal: Seal, ledger: Ledger) -> NotRedrivenError | None:
    """Return what a redrive has left alone, of which the verdict takes no notice."""
    amendment = in_force(plan.store, seal.round)
    if amendment is None:
        return None
    run_again = run_since(plan, seal, amendment.round)
    unsettled = list(ledger.ordinals(FAILED, SHORT))
    ordinals = [ordinal for ordinal in unsettled if not run_again[ordinal]]
    if not ordinals:
        return None
    why = _why_unprocessed(plan, seal.round)
    return NotRedrivenError(len(ordinals), ordinals[:_SHOWN], why, len(unsettled))


def _failure(plan: Plan, ledger: Ledger, result: JobResult) -> VerdictError | None:
    counts = result.counts
    left = counts.failed + counts.unprocessed
    failures = Failures(counts.items_failed, counts.failed + counts.short)
    breaches = budget.final_breaches(plan.config, failures, counts.mini_batches)
    if breaches:
        return ThresholdExceededError(breaches, _story(result), left)
    if counts.unprocessed:
        ordinals = list(islice(ledger.ordinals(UNPROCESSED), _SHOWN))
        return UnprocessedError(counts.unprocessed, ordinals, _why_unprocessed(plan, result.round), left)
    if plan.append_row and counts.rows == 0:
        return NothingToAppendError(_why_nothing(counts, result), left)
    return None


def _story(result: JobResult) -> str:
    """Return the most frequent cause: the user's own error, where it happened and where the log is."""
    if not result.error_groups:
        return f"Logs: {result.logs}"
    group = result.error_groups[0]
    items = ", ".join([os.path.basename(item) for item in group.sample_items])
    text = (
        f"Most frequent error, in {group.mini_batches} mini-batches ({group.items} items): {group.error}\n"
        f"First in mini-batch {group.sample_mini_batch}, whose items begin with {items}."
    )
    if group.traceback:
        text += f"\n{group.traceback.rstrip()}"
    return f"{text}\nFull log: {group.log or result.logs}"


def _why_nothing(counts: Counts, result: JobResult) -> str:
    if counts.failed:
        return f"{counts.failed} of {counts.mini_batches} mini-batches failed. {_story(result)}"
    return (
        f"run() returned an empty list or frame for all {counts.mini_batches} mini-batches. "
        "Return one element for each item, or use output_action summary_only."
    )


def _why_unprocessed(plan: Plan, round_: int) -> str:
    """Return how the last start of each node in the round ended, where that left work behind."""
    found = starts(plan)
    # A round in which none has started has what one of an earlier round did after that was sealed.
    in_round = [start for start in found if start.round == round_] or found
    last = {start.attempt.node: start for start in in_round}
    told = []
    for start in last.values():
        if start.end is None:
            told.append(f"node {start.attempt} was lost without a word (killed, or its machine went away)")
        elif start.end["outcome"] != "finished":
            told.append(f"node {start.attempt} {start.end['outcome']}: {start.end['message']}".rstrip("."))
    story = "; ".join(told[:_SHOWN]) or "no node was started for them"
    return f"{story}. Logs: {plan.logs}"


def _durations(plan: Plan, seal: Seal) -> dict[str, float]:
    ends = [start.end for start in starts(plan) if start.end is not None]
    created = datetime.fromisoformat(plan.created_at)
    until = datetime.fromisoformat(seal.sealed_at) if seal.sealed_at else datetime.now(UTC)
    return {
        "split_s": plan.split_seconds,
        "first_init_s": max((end["first_init_s"] or 0.0 for end in ends), default=0.0),
        "run_s": round(sum(end["run_seconds"] for end in ends), 3),
        "total_s": max(0, round((until - created).total_seconds())),  # by two machines' clocks
    }
