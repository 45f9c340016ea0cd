# SPDX-License-Identifier: Apache-2.0
"""The ledger: what became of every mini-batch, from the journals that a seal names.

It is kept in arrays by ordinal: a million mini-batches take some tens of megabytes, not gigabytes.
"""

from __future__ import annotations

import mmap
import zlib
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from airflow_parallelrun.engine.journal import Extent, Record, read_journal
from airflow_parallelrun.worker.protocol import OK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_parallelrun.engine.names import Attempt
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Seal
    from airflow_parallelrun.engine.store import Store

# Each mapping holds a descriptor, of which a process may have 1,024.
SEGMENTS_MAPPED = 100

UNPROCESSED, FAILED, SHORT, SUCCEEDED = range(4)


@dataclass(frozen=True)
class Counts:
    """A run in numbers. Every mini-batch is in exactly one of the four, and so is every item.

    :param mini_batches: in the plan
    :param succeeded: mini-batches with an element for each item
    :param short: mini-batches that came back with fewer
    :param failed: mini-batches whose last try failed
    :param unprocessed: mini-batches that nobody finished
    :param items: in the plan
    :param items_succeeded: items that succeeded
    :param items_failed: items that failed or are missing from a short return
    :param items_unprocessed: items of unprocessed mini-batches
    :param rows: elements that run() returned
    """

    mini_batches: int
    succeeded: int
    short: int
    failed: int
    unprocessed: int
    items: int
    items_succeeded: int
    items_failed: int
    items_unprocessed: int
    rows: int


class Span(NamedTuple):
    """Bytes of a segment that stand together in the output."""

    segment: str
    offset: int
    length: int


class Segments:
    """The segments of a run, mapped for reading; the last few that were asked for stay mapped.

    Known limitation: a mapped segment that shrinks while it is read kills the process; nobody cuts one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._maps: OrderedDict[str, memoryview | None] = OrderedDict()

    def view(self, extent: Extent) -> memoryview | None:
        """Return the bytes of an extent if they are what was journalled; None when they are not."""
        view = self._map(extent.segment)
        if view is None or extent.offset + extent.length > len(view):
            return None
        part = view[extent.offset : extent.offset + extent.length]
        return part if zlib.crc32(part) == extent.crc32 else None

    def read(self, span: Span) -> memoryview:
        """Return the bytes of a span that the ledger has checked."""
        view = self._map(span.segment)
        assert view is not None
        return view[span.offset : span.offset + span.length]

    def _map(self, name: str) -> memoryview | None:
        if name not in self._maps:
            try:
                with self._store.open(name) as file:
                    self._maps[name] = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
            except (FileNotFoundError, ValueError):  # gone, or empty, which cannot be mapped
                self._maps[name] = None
            if len(self._maps) > SEGMENTS_MAPPED:
                self._maps.popitem(last=False)
        self._maps.move_to_end(name)
        return self._maps[name]


class Ledger:
    """What became of every mini-batch.

    Of several lines for one mini-batch success comes before failure. Among successes the lowest (k, node,
    place) wins, whenever and wherever this is asked again. Among failures it is the latest round's, since
    that is the one to explain.
    """

    def __init__(self, plan: Plan) -> None:
        size = plan.mini_batches
        self._plan = plan
        self._states = bytearray(size)
        self._rank = array("q", bytes(8 * size))
        self._items_in = array("q", bytes(8 * size))
        self._items_ok = array("q", bytes(8 * size))
        self._rows = array("q", bytes(8 * size))
        # The first extent of each mini-batch; hardly any has more than one.
        self._segments: dict[str, int] = {}
        self._segment = array("i", [-1]) * size
        self._offset = array("q", bytes(8 * size))
        self._length = array("q", bytes(8 * size))
        self._more: dict[int, list[Extent]] = {}
        self._problems: dict[int, Record] = {}

    @classmethod
    def read(cls, plan: Plan, seal: Seal, before_round: int | None = None) -> Ledger:
        """Read the journals that a seal names.

        A line whose bytes are not there, or are not the ones that were journalled, does not count.

        :param before_round: leave out what was written in this round and later ones
        """
        ledger = cls(plan)
        store = plan.store
        segments = Segments(store)
        for name, length in sorted(seal.journals):
            for place, record in enumerate(read_journal(store, name, length, plan.plan_id)):
                if before_round is not None and record.round >= before_round:
                    break
                if all(segments.view(extent) is not None for extent in record.line.extents):
                    ledger._enter(record, place)
        return ledger

    def succeeded(self, ordinal: int) -> bool:
        """Tell whether a mini-batch is done for good."""
        return self._states[ordinal] >= SHORT

    def state(self, ordinal: int) -> int:
        """Return UNPROCESSED, FAILED, SHORT or SUCCEEDED."""
        return self._states[ordinal]

    def ordinals(self, state: int) -> Iterator[int]:
        """Yield the mini-batches in a state, in order."""
        at = self._states.find(state)
        while at >= 0:
            yield at
            at = self._states.find(state, at + 1)

    @property
    def has_problems(self) -> bool:
        """Whether any mini-batch failed or came back short."""
        return bool(self._problems)

    def problems(self) -> Iterator[Record]:
        """Yield the lines of failed and short mini-batches, in order."""
        for ordinal in sorted(self._problems):
            yield self._problems[ordinal]

    def spans(self) -> Iterator[Span]:
        """Yield where the rows of the output lie, in the order of the plan; neighbours are joined."""
        names = list(self._segments)
        joined = Span("", 0, 0)
        for ordinal, segment in enumerate(self._segment):
            if segment < 0:
                continue
            first = Span(names[segment], self._offset[ordinal], self._length[ordinal])
            for span in (first, *(Span(*extent[:3]) for extent in self._more.get(ordinal, ()))):
                if joined.segment == span.segment and joined.offset + joined.length == span.offset:
                    joined = Span(joined.segment, joined.offset, joined.length + span.length)
                    continue
                if joined.length:
                    yield joined
                joined = span
        if joined.length:
            yield joined

    def counts(self) -> Counts:
        """Return the run in numbers."""
        states = self._states
        items_in, items_ok = sum(self._items_in), sum(self._items_ok)
        return Counts(
            mini_batches=len(states),
            succeeded=states.count(SUCCEEDED),
            short=states.count(SHORT),
            failed=states.count(FAILED),
            unprocessed=states.count(UNPROCESSED),
            items=self._plan.items,
            items_succeeded=items_ok,
            items_failed=items_in - items_ok,
            items_unprocessed=self._plan.items - items_in,
            rows=sum(self._rows),
        )

    def _enter(self, record: Record, place: int) -> None:
        line = record.line
        ordinal = line.ordinal
        state = FAILED if not line.succeeded else SUCCEEDED if line.status == OK else SHORT
        rank = _rank(record.attempt, place) if line.succeeded else -record.round
        before = self._states[ordinal]
        if before != UNPROCESSED:
            was_success, is_success = before >= SHORT, state >= SHORT
            if was_success > is_success or (was_success == is_success and rank >= self._rank[ordinal]):
                return
        self._states[ordinal] = state
        self._rank[ordinal] = rank
        self._items_in[ordinal] = line.items_in
        self._items_ok[ordinal] = line.items_ok
        self._rows[ordinal] = line.rows_out
        self._place(ordinal, line.extents)
        self._problems.pop(ordinal, None)
        if state != SUCCEEDED:
            self._problems[ordinal] = record

    def _place(self, ordinal: int, extents: list[Extent]) -> None:
        self._more.pop(ordinal, None)
        if not extents:
            self._segment[ordinal] = -1
            return
        first = extents[0]
        self._segment[ordinal] = self._segments.setdefault(first.segment, len(self._segments))
        self._offset[ordinal], self._length[ordinal] = first.offset, first.length
        if len(extents) > 1:
            self._more[ordinal] = extents[1:]


def _rank(attempt: Attempt, place: int) -> int:
    """Return one number that sorts as (k, node, place)."""
    return (attempt.k << 44) | (attempt.node << 28) | place
