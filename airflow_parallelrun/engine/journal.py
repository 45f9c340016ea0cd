# SPDX-License-Identifier: Apache-2.0
"""The journal: a line for each finished mini-batch, or for a streak of them; and only what it names exists.

A journal is written by one attempt. Its first line says whose it is.
A last line without its newline is torn and does not count; nor does a line that cannot be read: a power cut
may leave a hole in what had not been flushed.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.exceptions import StorageError
from airflow_parallelrun.worker.protocol import FAILED, OK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from airflow_parallelrun.engine.store import Store

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1

# A process may have 1,024 descriptors.
JOURNALS_OPEN = 32


class Extent(NamedTuple):
    """Where rows lie.

    :param segment: the segment's name
    :param offset: bytes
    :param length: bytes
    :param crc32: of these bytes
    """

    segment: str
    offset: int
    length: int
    crc32: int


class Part(NamedTuple):
    """What became of neighbouring items of a mini-batch that was bisected.

    :param first: the first item's place in the mini-batch
    :param items: how many
    :param status: ok, short or failed
    :param items_ok: items that succeeded
    :param rows_out: elements that run() returned
    :param extents: the rows' bytes; empty without rows
    :param error: as in a line; None when ok
    """

    first: int
    items: int
    status: str
    items_ok: int
    rows_out: int
    extents: list[Extent]
    error: dict[str, Any] | None

    def as_line(self, whole: Line) -> Line:
        """Return the line that it would have as a mini-batch of its own.

        :param whole: the mini-batch's
        """
        values = self._asdict()
        del values["first"]
        return whole._replace(items_in=values.pop("items"), parts=(), **values)


class Line(NamedTuple):
    """What became of a mini-batch, after its last try.

    :param ordinal: the mini-batch
    :param status: ok, short or failed
    :param tries: how many were made
    :param items_in: items that it has; 0 of a failed one whose items could not be counted
    :param items_ok: items that succeeded
    :param rows_out: elements that run() returned
    :param extents: the rows' bytes; empty without rows
    :param seconds: of the last run()
    :param cpu_seconds: of the last run()
    :param process: the worker process's name
    :param finished: UTC, seconds since the epoch
    :param error: type, message, frame, log and, for the first of a kind, traceback; None when ok
    :param parts: all of it, in order, where it was bisected; else empty
    """

    ordinal: int
    status: str
    tries: int
    items_in: int
    items_ok: int
    rows_out: int
    extents: list[Extent]
    seconds: float
    cpu_seconds: float
    process: str
    finished: float
    error: dict[str, Any] | None
    parts: Sequence[Part] = ()

    @property
    def items_failed(self) -> int:
        """Items that did not succeed; 1, the least, of a failed one whose items could not be counted."""
        return self.items_in - self.items_ok or int(self.status == FAILED)

    @property
    def succeeded(self) -> bool:
        """Whether its rows count; a mini-batch that came back short has succeeded with what it returned."""
        return self.status != FAILED

    def lines(self) -> list[Line]:
        """Return what it says of each mini-batch, as a streak does."""
        return [self]

    def encode(self) -> bytes:
        """Return the line."""
        values = self._asdict()
        values["seconds"], values["cpu_seconds"] = round(self.seconds, 6), round(self.cpu_seconds, 6)
        values["finished"] = round(self.finished, 3)
        if not self.parts:
            del values["parts"]
        return _json(values).encode() + b"\n"


class Streak(NamedTuple):
    """Neighbouring mini-batches that one process ran in a row, each successful in full at its first try.

    :param streak: the first mini-batch
    :param process: the worker process's name
    :param segment: where their rows lie, without gaps
    :param offset: bytes
    :param crc32: of all rows together
    :param began: UTC, seconds since the epoch
    :param items: of each mini-batch, how many it has
    :param rows_out: of each, elements that run() returned
    :param lengths: of each, its rows' bytes
    :param run_us: of each, microseconds of run()
    :param cpu_us: of each, CPU microseconds of run()
    :param ended_us: of each, when run() was over, in microseconds from the beginning
    :param without: the mini-batches among them that do not count: another process had them by then, or they
        were over their limit
    """

    streak: int
    process: str
    segment: str
    offset: int
    crc32: int
    began: float
    items: list[int]
    rows_out: list[int]
    lengths: list[int]
    run_us: list[int]
    cpu_us: list[int]
    ended_us: list[int]
    without: Sequence[int] = ()

    @property
    def ordinals(self) -> range:
        """The mini-batches, those that do not count as well."""
        return range(self.streak, self.streak + len(self.items))

    @property
    def extents(self) -> list[Extent]:
        """Where the rows of all of them lie."""
        length = sum(self.lengths)
        return [Extent(self.segment, self.offset, length, self.crc32)] if length else []

    def encode(self) -> bytes:
        """Return the line."""
        return _json(self._asdict()).encode() + b"\n"

    def lines(self) -> Iterator[Line]:
        """Yield the lines that they would have as single ones; the crc32 of an extent is not known."""
        offset = self.offset
        for place, ordinal in enumerate(self.ordinals):
            length = self.lengths[place]
            if ordinal not in self.without:
                yield Line(
                    ordinal=ordinal,
                    status=OK,
                    tries=1,
                    items_in=self.items[place],
                    items_ok=self.items[place],
                    rows_out=self.rows_out[place],
                    extents=[Extent(self.segment, offset, length, _UNKNOWN)] if length else [],
                    seconds=self.run_us[place] / 1e6,
                    cpu_seconds=self.cpu_us[place] / 1e6,
                    process=self.process,
                    finished=self.began + self.ended_us[place] / 1e6,
                    error=None,
                )
            offset += length


_UNKNOWN = -1


class Record(NamedTuple):
    """A line or a streak, and where it stands.

    :param attempt: who wrote it
    :param round: in which round
    :param entry: what it says
    :param offset: the byte of the journal at which it begins
    """

    attempt: Attempt
    round: int
    entry: Line | Streak
    offset: int

    @property
    def line(self) -> Line:
        """The line; a streak is none."""
        assert isinstance(self.entry, Line)
        return self.entry

    def lines(self) -> Iterable[Line]:
        """Return what it says of each mini-batch."""
        return self.entry.lines()


def header(plan_id: str, attempt: Attempt, round_: int) -> bytes:
    """Return a journal's first line."""
    record = {"format_version": FORMAT_VERSION, "plan_id": plan_id, "attempt": str(attempt), "round": round_}
    return json.dumps(record).encode() + b"\n"


def read_journal(store: Store, name: str, length: int, plan_id: str) -> Iterator[Record]:
    """Yield what a journal says up to a length.

    :param name: the journal's name in the run directory
    :param length: bytes that count
    :param plan_id: the plan that it must belong to
    :raises StorageError: when it belongs to another plan
    """
    with store.open(name) as file:
        lines = _whole_lines(file, length)
        try:
            attempt, round_ = _read_header(next(lines, (0, b""))[1], store.path(name), plan_id)
        except (ValueError, TypeError, KeyError) as error:
            if length:
                logger.warning("%s: nothing counts, its first line is damaged: %s", store.path(name), error)
            return
        for number, (offset, text) in enumerate(lines, 2):
            try:
                entry = parse(text)
            except (ValueError, TypeError, KeyError) as error:
                logger.warning(
                    "%s: line %d is damaged and does not count: %s", store.path(name), number, error
                )
                continue
            yield Record(attempt, round_, entry, offset)


class JournalLines:
    """Single lines of journals, read again one by one; a few journals stay open."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()

    def __enter__(self) -> Self:
        """Open nothing yet."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close what is open."""
        while self._files:
            self._files.popitem()[1].close()

    def read(self, name: str, offset: int) -> Line:
        """Return a line that :func:`read_journal` has yielded.

        :param name: the journal's name in the run directory
        :param offset: the byte at which the line begins
        """
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = self._store.open(name)
            if len(self._files) > JOURNALS_OPEN:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(name)
        file.seek(offset)
        line = parse(file.readline())
        assert isinstance(line, Line)
        return line


def parse(text: bytes) -> Line | Streak:
    """Return a line or a streak from its text.

    :raises ValueError: when it is none, as are TypeError and KeyError
    """
    values = _decode(str(text, "utf-8"))  # half as long as json.loads(bytes) takes
    if "streak" in values:
        streak = Streak(**values)
        if len({len(each) for each in streak[6:12]}) != 1:
            raise ValueError("not each of its lists has a value for each mini-batch")
        return streak
    values["extents"] = [Extent(*extent) for extent in values["extents"]]
    if parts := values.get("parts"):
        values["parts"] = [
            Part(*part)._replace(extents=[Extent(*extent) for extent in part[5]]) for part in parts
        ]
    return Line(**values)


_decode = json.JSONDecoder().decode


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _whole_lines(file: BinaryIO, length: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that end within a length, with the byte at which each begins."""
    end = 0
    for line in file:
        offset, end = end, end + len(line)
        if end > length or not line.endswith(b"\n"):
            return
        yield offset, line


def _read_header(line: bytes, path: str, plan_id: str) -> tuple[Attempt, int]:
    first = json.loads(line)
    if first["plan_id"] != plan_id or first["format_version"] != FORMAT_VERSION:
        raise StorageError(path, f"is not a journal of plan {plan_id} in format {FORMAT_VERSION}")
    return Attempt.parse(first["attempt"]), int(first["round"])
