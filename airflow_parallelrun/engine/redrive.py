# SPDX-License-Identifier: Apache-2.0
"""Redrive: what failed or came back short in a run that succeeded is run once more, perhaps otherwise.

It is the next round of the same run directory: ordinals, ledger and output stay the same. Until ``reduce``
publishes what the round came to, the output is that of before, and ``job_result.json`` says so.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from airflow_parallelrun.engine import budget, names, ownership
from airflow_parallelrun.engine.amendment import Amendment, amended, how_it_runs, in_force, write
from airflow_parallelrun.engine.budget import Failures
from airflow_parallelrun.engine.ledger import Ledger
from airflow_parallelrun.engine.outputs import output_of
from airflow_parallelrun.engine.plan import read_plan
from airflow_parallelrun.engine.rounds import Seal, attempts, journals, seal, sealed_rounds, utc_now
from airflow_parallelrun.engine.side_inputs import check_arguments
from airflow_parallelrun.engine.snapshot import take
from airflow_parallelrun.engine.standing import published_result
from airflow_parallelrun.exceptions import NotRedrivableError
from airflow_parallelrun.worker.protocol import OK

if TYPE_CHECKING:
    from typing import Self

    from airflow_parallelrun.config import ParallelRunConfig
    from airflow_parallelrun.engine.plan import Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RedriveRequest:
    """How to run what is run once more.

    :param by: who asks; the same when it is tried again
    :param config: every parameter resolved; fields that are not in ``HOW_IT_RUNS`` have no effect
    :param arguments: the entry script's arguments
    :param models_root: the model registry's folder
    :param fresh_code: freeze the source directory as it is now; else the run's own copy is used
    :param base_directory: what a relative source directory is relative to
    """

    by: str
    config: ParallelRunConfig
    arguments: tuple[str, ...]
    models_root: str | None
    fresh_code: bool = False
    base_directory: str = "."


@dataclass(frozen=True)
class Redrive:
    """What is to be done.

    :param plan: the plan as the redrive's nodes run it
    :param mini_batches: how many are run again; with none, there are no nodes to start
    :param items: how many are given to ``run()`` again
    """

    plan: Plan
    mini_batches: int = 0
    items: int = 0


class _Work(NamedTuple):
    """What failed or came back short.

    :param mini_batches: how many
    :param items: of these, as far as they could be counted; of a mini-batch that was bisected, those that
        did not succeed
    :param chunks: that these are in
    """

    mini_batches: int
    items: int
    chunks: int

    @classmethod
    def of(cls, plan: Plan, ledger: Ledger) -> Self:
        mini_batches = items = chunks = 0
        chunk = -1
        for record in ledger.problems():
            line = record.line
            mini_batches += 1
            items += sum(part.items for part in line.parts if part.status != OK) or line.items_in or 1
            chunks += plan.chunk_of(line.ordinal) != chunk
            chunk = plan.chunk_of(line.ordinal)
        return cls(mini_batches, items, chunks)


def redrive(run_dir: str, request: RedriveRequest) -> Redrive:
    """Prepare the next round of a run that has succeeded; its nodes and ``reduce`` come next.

    :raises NotRedrivableError: when the run has no verdict, has failed, or is being redriven by somebody else
    :raises ConfigurationError: when the code cannot be frozen
    :raises EntryScriptError: when there is no such script, or it is not Python
    :raises OutputError: when the output belongs to somebody else by now
    :raises StorageError: when the run directory cannot be read or written
    """
    plan = read_plan(run_dir)
    store = plan.store
    open_round = sealed_rounds(store)
    under_way = open_round in attempts(store).values()
    ledger = Ledger.read(plan, Seal(open_round, journals(store)))
    _check(plan, ledger, open_round, under_way, request.by)
    before = amended(plan, open_round)
    work = _Work.of(before, ledger)
    if not work.mini_batches:
        return Redrive(before)
    output = output_of(plan)
    if output is not None:
        # What is published stays true: it goes when there is a new verdict.
        results = ownership.result_names(plan.config.append_row_file_name)
        output.take(results, anew=False)
    amendment = _amend(before, request, open_round + under_way, work.chunks)
    write(store, amendment)
    if under_way:  # what has failed since is to be run again, too, so this begins another round
        seal(store)
    logger.info(
        "redrive by %s: %d mini-batches (%d items) are run again, in round %d",
        request.by,
        work.mini_batches,
        work.items,
        amendment.round,
    )
    return Redrive(amended(plan, amendment.round), work.mini_batches, work.items)


def _check(plan: Plan, ledger: Ledger, open_round: int, under_way: bool, by: str) -> None:
    """Refuse what has no success to begin with.

    A success stays one: a later result takes an earlier one's place only when it is better. So a redrive may
    follow another one that nobody has finished.
    """
    problem = ""
    last = in_force(plan.store, open_round)
    if open_round == 0:
        problem = "it has no verdict yet"
    elif last is not None and last.round == open_round:
        if under_way and last.by != by:
            problem = f"the redrive that {last.by} asked for at {last.asked_at} has not ended"
    elif under_way:
        problem = "nodes have started since its last verdict"
    else:
        problem = _why_no_success(plan, ledger)
    if problem:
        raise NotRedrivableError(plan.run_dir, problem)


def _why_no_success(plan: Plan, ledger: Ledger) -> str:
    """Return why the last verdict is no success, or cannot be seen; empty when it is one."""
    if plan.output is not None:
        result = published_result(plan)
        if result is None:
            return f"the result of its last round is not in {plan.output!r}"
        first_line = result["reason"].partition("\n")[0]
        return f"it failed: {first_line}" if result["verdict"] == "failed" else ""
    counts = ledger.counts()
    failures = Failures(counts.items_failed, counts.failed + counts.short)
    breaches = budget.final_breaches(plan.config, failures, counts.mini_batches)
    if counts.unprocessed:
        breaches.append(f"{counts.unprocessed} mini-batches were not processed")
    return f"it failed: {'; '.join(breaches)}" if breaches else ""


def _amend(before: Plan, request: RedriveRequest, round_: int, chunks: int) -> Amendment:
    check_arguments(request.arguments, [each["name"] for each in before.side_inputs])
    code, sha256, entry_script = before.code, before.code_sha256, before.entry_script
    if request.fresh_code:
        left_out = (before.output, os.path.dirname(before.run_dir))
        snapshot, entry_script = take(request.config, request.base_directory, left_out)
        if snapshot.sha256 != sha256:
            code, sha256 = names.code(snapshot.sha256), snapshot.sha256
            before.store.put(code, snapshot.archive)
    return Amendment(
        round=round_,
        by=request.by,
        asked_at=utc_now(),
        config=how_it_runs(request.config),
        arguments=list(request.arguments),
        # Nodes claim chunks: more of them than chunks would find nothing.
        node_count=min(request.config.node_count, chunks),
        models_root=request.models_root,
        entry_script=entry_script,
        code=code,
        code_sha256=sha256,
    )
