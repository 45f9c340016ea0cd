# SPDX-License-Identifier: Apache-2.0
"""The ledger: what became of every mini-batch, from the journals that a seal names.

It is kept in arrays by ordinal: a million mini-batches take some tens of megabytes, not gigabytes.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self

from airflow_parallelrun.engine.journal import JournalLines, Record, Streak, read_journal
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.object_segments import ObjectSegments
from airflow_parallelrun.engine.object_store import ObjectStore
from airflow_parallelrun.exceptions import StorageError
from airflow_parallelrun.worker import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_parallelrun.engine.journal import Extent, Line
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Seal
    from airflow_parallelrun.engine.store import Store

# A process may have 1,024 descriptors.
SEGMENTS_OPEN = 100
# Rows of small mini-batches lie side by side, and are read ahead.
_BUFFER_BYTES = 1 << 17
PIECE_BYTES = 1 << 20

UNPROCESSED, FAILED, SHORT, SUCCEEDED = range(4)
_STATES = {protocol.FAILED: FAILED, protocol.OK: SUCCEEDED}

# In place of a mini-batch's segment: it has no rows; or several extents.
_NONE, _SEVERAL = -1, -2


@dataclass(frozen=True)
class Counts:
    """A run in numbers. Every mini-batch is in exactly one of the four, and so is every item.

    :param mini_batches: in the plan
    :param succeeded: mini-batches with an element for each item
    :param short: mini-batches that came back with fewer
    :param failed: mini-batches whose last try failed
    :param unprocessed: mini-batches that nobody finished
    :param items: in the plan; where that does not know them, those of all mini-batches that are finished
    :param items_succeeded: items that succeeded
    :param items_failed: items that failed or are missing from a short return
    :param items_unprocessed: items of unprocessed mini-batches
    :param rows: elements that run() returned
    :param items_at_least: whether there are items that could not be counted: those of unprocessed
        mini-batches of a text file, and of failed ones whose file had changed or vanished. Of each of these
        one is counted, as failed
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
    items_at_least: bool = False


class Span(NamedTuple):
    """Bytes of a segment that stand together in the output."""

    segment: str
    offset: int
    length: int


class Segments:
    """The segments of a run, for reading; the last few that were asked for stay open.

    They are read in pieces: what is in a mapping counts as memory of this process.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: OrderedDict[str, BinaryIO | None] = OrderedDict()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close what is open."""
        for file in self._files.values():
            if file is not None:
                file.close()

    def are_intact(self, extents: Iterable[Extent]) -> bool:
        """Tell whether the bytes of these extents are there, and are what was journalled."""
        for extent in extents:
            crc32, length = 0, 0
            for piece in self.read(extent):
                crc32 = zlib.crc32(piece, crc32)
                length += len(piece)
            if crc32 != extent.crc32 or length != extent.length:
                return False
        return True

    def read(self, span: Span | Extent) -> Iterator[bytes]:
        """Yield the bytes of a span in pieces, as far as they are there.

        :raises StorageError: when they cannot be read
        """
        file = self._open(span.segment)
        if file is None:
            return
        left = span.length
        try:
            file.seek(span.offset)
            while left and (piece := file.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                yield piece
        except OSError as error:
            raise StorageError(self._store.path(span.segment), error.strerror or str(error)) from error

    def stream(self, spans: Iterable[Span]) -> Iterator[bytes]:
        """Yield the bytes of spans, one behind the other.

        :raises StorageError: when they cannot be read, or are not there any more
        """
        for span in spans:
            left = span.length
            for piece in self.read(span):
                left -= len(piece)
                yield piece
            if left:
                raise StorageError(self._store.path(span.segment), "has lost rows since they were checked")

    def descriptor(self, span: Span) -> int | None:
        """Return a descriptor of the segment that a span lies in; None when it is not there."""
        file = self._open(span.segment)
        return None if file is None else file.fileno()

    def _open(self, name: str) -> BinaryIO | None:
        if name not in self._files:
            try:
                self._files[name] = self._store.open(name, _BUFFER_BYTES)
            except FileNotFoundError:
                self._files[name] = None
            if len(self._files) > SEGMENTS_OPEN and (file := self._files.popitem(last=False)[1]):
                file.close()
        self._files.move_to_end(name)
        return self._files[name]


def segments_of(store: Store) -> Segments | ObjectSegments:
    """Return the segments of a run."""
    return ObjectSegments(store) if isinstance(store, ObjectStore) else Segments(store)


class _Journal(NamedTuple):
    """A journal, and what is the same for each of its lines."""

    name: str
    attempt: Attempt
    round: int


class Ledger:
    """What became of every mini-batch.

    Of several lines for one mini-batch one that succeeded comes before one that came back short, and that
    before one that failed. Of short ones the one with more items wins. Among equals the lowest (k, node,
    place) wins, whenever and wherever this is asked again; but of failures the latest round's, since that is
    the one to explain.

    The lines themselves are not kept, only where they stand; they are read again when somebody asks.
    """

    def __init__(self, plan: Plan) -> None:
        size = plan.mini_batches
        self._plan = plan
        self._states = bytearray(size)
        self._items_in = array("q", bytes(8 * size))
        self._items_ok = array("q", bytes(8 * size))
        self._rows = array("q", bytes(8 * size))
        # The line that counts.
        self._journals: list[_Journal] = []
        self._journal = array("i", [-1]) * size
        self._place = array("q", bytes(8 * size))
        # Its extent; hardly any has more than one, and then the line says which.
        self._segments: dict[str, int] = {}
        self._segment = array("i", [_NONE]) * size
        self._offset = array("q", bytes(8 * size))
        self._length = array("q", bytes(8 * size))

    @classmethod
    def read(
        cls,
        plan: Plan,
        seal: Seal,
        before_round: int | None = None,
        told: Callable[[Record], None] = lambda record: None,
    ) -> Ledger:
        """Read the journals that a seal names.

        A line whose bytes are not there, or are not the ones that were journalled, does not count.

        :param before_round: leave out what was written in this round and later ones
        :param told: called with each line, also one that does not count
        """
        ledger = cls(plan)
        store = plan.store
        journals = sorted(seal.journals, key=_by_attempt)
        with segments_of(store) as segments, store.opening([name for name, _ in journals]):
            for name, length in journals:
                for record in read_journal(store, name, length, plan.plan_id):
                    if before_round is not None and record.round >= before_round:
                        break
                    told(record)
                    if segments.are_intact(record.entry.extents):
                        ledger._enter(name, record)
        return ledger

    def state(self, ordinal: int) -> int:
        """Return UNPROCESSED, FAILED, SHORT or SUCCEEDED."""
        return self._states[ordinal]

    def ordinals(self, *states: int) -> Iterator[int]:
        """Yield the mini-batches in one of these states, in order."""
        for found in re.finditer(b"[%s]" % re.escape(bytes(states)), self._states):
            yield found.start()

    @property
    def has_problems(self) -> bool:
        """Whether any mini-batch failed or came back short."""
        return FAILED in self._states or SHORT in self._states

    def problems(self) -> Iterator[Record]:
        """Yield the lines of failed and short mini-batches, in order; they are read again for it."""
        with JournalLines(self._plan.store) as lines:
            for ordinal in self.ordinals(FAILED, SHORT):
                yield self._read(lines, ordinal)

    def spans(self, in_order: bool = True) -> Iterator[Span]:
        """Yield where the rows of the output lie; neighbours are joined.

        :param in_order: in the order of the plan; else as they lie in the segments, so that most are
            neighbours. The rows of a mini-batch stay together either way
        """
        names: list[str] = []
        ordinals = range(len(self._states)) if in_order else self._as_they_lie()
        current = start = end = -1
        for segment, offset, length in self._places(ordinals, names):
            if segment == current and offset == end:
                end += length
                continue
            if current >= 0:
                yield Span(names[current], start, end - start)
            current, start, end = segment, offset, offset + length
        if current >= 0:
            yield Span(names[current], start, end - start)

    @property
    def row_bytes(self) -> int:
        """How many bytes of rows the output has; those of mini-batches that were bisected are left out."""
        return sum(self._length)

    def counts(self) -> Counts:
        """Return the run in numbers."""
        states = self._states
        items_ok = sum(self._items_ok)
        uncounted = sum(1 for ordinal in self.ordinals(FAILED) if not self._items_in[ordinal])
        items_in = sum(self._items_in) + uncounted
        unprocessed = states.count(UNPROCESSED)
        planned = self._plan.items
        return Counts(
            mini_batches=len(states),
            succeeded=states.count(SUCCEEDED),
            short=states.count(SHORT),
            failed=states.count(FAILED),
            unprocessed=unprocessed,
            items=items_in if planned is None else planned,
            items_succeeded=items_ok,
            items_failed=items_in - items_ok,
            items_unprocessed=0 if planned is None else planned - items_in,
            rows=sum(self._rows),
            items_at_least=planned is None and (uncounted > 0 or unprocessed > 0),
        )

    def _enter(self, name: str, record: Record) -> None:
        if not self._journals or self._journals[-1].name != name:
            self._journals.append(_Journal(name, record.attempt, record.round))
        entry = record.entry
        if isinstance(entry, Streak):
            first, end = entry.ordinals.start, entry.ordinals.stop
            if not entry.without and self._states.count(UNPROCESSED, first, end) == end - first:
                self._enter_whole(entry)
                return
        for line in record.lines():
            self._enter_line(line, record)

    def _enter_whole(self, streak: Streak) -> None:
        """Enter mini-batches of which nothing is known yet; a slice costs hardly more than one of them."""
        count = len(streak.items)
        at = slice(streak.streak, streak.streak + count)
        self._states[at] = bytes([SUCCEEDED]) * count
        self._items_in[at] = self._items_ok[at] = array("q", streak.items)
        self._rows[at] = array("q", streak.rows_out)
        self._journal[at] = array("i", [len(self._journals) - 1]) * count
        self._length[at] = array("q", streak.lengths)
        self._offset[at] = array("q", accumulate(streak.lengths[:-1], initial=streak.offset))
        segment = self._segments.setdefault(streak.segment, len(self._segments))
        self._segment[at] = array("i", [segment if length else _NONE for length in streak.lengths])

    def _enter_line(self, line: Line, record: Record) -> None:
        ordinal = line.ordinal
        state = _STATES.get(line.status, SHORT)
        before = self._states[ordinal]
        if before > state or (before == state and not self._is_better(line, record.round, state)):
            return
        self._states[ordinal] = state
        self._items_in[ordinal] = line.items_in
        self._items_ok[ordinal] = line.items_ok
        self._rows[ordinal] = line.rows_out
        self._journal[ordinal] = len(self._journals) - 1
        self._place[ordinal] = record.offset
        extents = line.extents
        if len(extents) != 1:
            self._segment[ordinal] = _SEVERAL if extents else _NONE
            return
        segment, self._offset[ordinal], self._length[ordinal], _ = extents[0]
        self._segment[ordinal] = self._segments.setdefault(segment, len(self._segments))

    def _is_better(self, line: Line, round_: int, state: int) -> bool:
        """Tell whether a line is better than an earlier one, (k, node, place) counting, in the same state."""
        ordinal = line.ordinal
        if state == SHORT:
            return line.items_ok > self._items_ok[ordinal]
        return state == FAILED and round_ > self._journals[self._journal[ordinal]].round

    def _read(self, lines: JournalLines, ordinal: int) -> Record:
        name, attempt, round_ = self._journals[self._journal[ordinal]]
        offset = self._place[ordinal]
        return Record(attempt, round_, lines.read(name, offset), offset)

    def _as_they_lie(self) -> list[int]:
        """Return the mini-batches in the order of their first rows' place; those without one first."""
        ranks = {index: rank for rank, (_, index) in enumerate(sorted(self._segments.items()), 1)}
        places = [
            (ranks.get(segment, 0) << 44) + offset
            for segment, offset in zip(self._segment, self._offset, strict=True)
        ]
        return sorted(range(len(places)), key=places.__getitem__)

    def _places(self, ordinals: Iterable[int], names: list[str]) -> Iterator[tuple[int, int, int]]:
        """Yield the places of rows: segment, offset and length.

        :param names: filled with the segments' names
        """
        numbers = dict(self._segments)
        names.extend(numbers)
        segments, offsets, lengths = self._segment, self._offset, self._length
        with JournalLines(self._plan.store) as lines:
            for ordinal in ordinals:
                segment = segments[ordinal]
                if segment >= 0:
                    yield segment, offsets[ordinal], lengths[ordinal]
                elif segment == _SEVERAL:
                    for extent in self._read(lines, ordinal).line.extents:
                        if extent.segment not in numbers:
                            numbers[extent.segment] = len(names)
                            names.append(extent.segment)
                        yield numbers[extent.segment], extent.offset, extent.length


def _by_attempt(journal: tuple[str, int]) -> tuple[int, int, str]:
    """Return what journals are read by: the first of equal lines wins."""
    attempt = Attempt.parse(journal[0].rpartition("/")[2])
    return attempt.k, attempt.node, journal[0]
