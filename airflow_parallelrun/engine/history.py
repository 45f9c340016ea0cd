# SPDX-License-Identifier: Apache-2.0
"""What was finished before a node started: by earlier rounds, and by earlier attempts of the same node."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.amendment import in_force
from airflow_parallelrun.engine.finished import Tally
from airflow_parallelrun.engine.journal import read_journal
from airflow_parallelrun.engine.ledger import SHORT, SUCCEEDED, Ledger
from airflow_parallelrun.engine.long_runs import is_shown_by_all
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.rounds import Seal, attempts, journals, make_durable
from airflow_parallelrun.worker import page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_parallelrun.engine.journal import Line
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Started


@dataclass
class History:
    """What need not be done again.

    :param finished: one byte for each mini-batch; 1 means that this node leaves it alone
    :param total: mini-batches that this round has to do
    :param tally: what earlier attempts of this node did in this round
    :param lost: earlier attempts of this node in this round that ended without a word
    :param deaths: in how many of them each mini-batch is known to have been running
    :param unseen: mini-batches that the first of them may have been running unseen, since it shows only what
        has been running for long: those that were seen in a later one, and had not been when they were
    :param partial: the line that counts for each mini-batch of which some items have succeeded and others are
        to be run again; only of those that were bisected, whose line has parts
    """

    finished: bytearray
    total: int
    tally: Tally = field(default_factory=Tally)
    lost: set[Attempt] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)
    unseen: set[int] = field(default_factory=set)
    partial: dict[int, Line] = field(default_factory=dict)

    def suspicion(self, ordinal: int) -> int:
        """Return in how many lost attempts a mini-batch was running, or may have been."""
        return self.deaths[ordinal] + (ordinal in self.unseen)

    def chunks(self, plan: Plan) -> list[int]:
        """Return the chunks that have something left to do."""
        left = []
        for chunk, start in enumerate(plan.chunk_starts):
            if self.finished.find(0, start, start + plan.chunk_size(chunk)) >= 0:
                left.append(chunk)
        return left

    def unfinished(self, start: int, end: int) -> Iterator[range]:
        """Yield the mini-batches of a range that are to be done, neighbours together."""
        while (first := self.finished.find(0, start, end)) >= 0:
            start = self.finished.find(1, first, end)
            start = end if start < 0 else start
            yield range(first, start)


def read_history(plan: Plan, started: Started) -> History:
    """Read what was finished before this attempt."""
    finished = bytearray(plan.mini_batches)
    partial: dict[int, Line] = {}
    if started.round:
        # Not what the last seal has: a node that was alive then may have done more, and the next seal has it.
        now = Seal(started.round, journals(plan.store))
        for name, _ in now.journals:
            make_durable(plan.store, name)
        ledger = Ledger.read(plan, now, before_round=started.round)
        redriven = in_force(plan.store, started.round) is not None
        enough = SUCCEEDED if redriven else SHORT
        for ordinal in range(plan.mini_batches):
            finished[ordinal] = ledger.state(ordinal) >= enough
        if redriven:
            partial = _partial(ledger)
    history = History(finished, finished.count(0), partial=partial)
    if started.attempt.k > 1:
        _read_own_journals(plan, started, history)
        _read_own_pages(plan, started, history)
    return history


def _partial(ledger: Ledger) -> dict[int, Line]:
    lines = (record.line for record in ledger.problems())
    return {line.ordinal: line for line in lines if line.succeeded and line.parts}


def _read_own_journals(plan: Plan, started: Started, history: History) -> None:
    for name, size in plan.store.entries(names.JOURNAL):
        if Attempt.parse(name).node != started.attempt.node:
            continue
        make_durable(plan.store, f"{names.JOURNAL}/{name}")  # its writer may live, and not have come to that
        for record in read_journal(plan.store, f"{names.JOURNAL}/{name}", size, plan.plan_id):
            if record.round != started.round:
                break  # a journal is of one round
            for line in record.lines():
                if not history.finished[line.ordinal]:
                    history.finished[line.ordinal] = 1
                    history.tally.add(Tally.of(line))


def _read_own_pages(plan: Plan, started: Started, history: History) -> None:
    ended = {Attempt.parse(name) for name in plan.store.names(names.ENDS)}
    history.lost = {
        attempt
        for attempt, round_ in attempts(plan.store).items()
        if attempt.node == started.attempt.node and attempt != started.attempt and round_ == started.round
    } - ended
    seen: dict[int, dict[Attempt, bool]] = {}
    for name in plan.store.names(names.PAGES):
        attempt = Attempt.parse(name)
        if attempt not in history.lost:
            continue
        with plan.store.open(f"{names.PAGES}/{name}") as file:
            content = file.read(page.SIZE)
        if len(content) == page.SIZE:
            state = page.last_state(content)
            if state.phase in (page.LOAD, page.RUN, page.WRITE):
                seen.setdefault(state.ordinal, {})[attempt] = is_shown_by_all(content)
    history.deaths.update({ordinal: len(sightings) for ordinal, sightings in seen.items()})
    if not plan.store.is_local:
        # The first time that it was seen tells, however long it ran later.
        first = {ordinal: min(sightings.items()) for ordinal, sightings in seen.items()}
        history.unseen = {
            ordinal
            for ordinal, (attempt, by_all) in first.items()
            if attempt != min(history.lost) and not by_all
        }
