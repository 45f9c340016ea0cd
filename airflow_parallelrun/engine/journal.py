# SPDX-License-Identifier: Apache-2.0
"""The journal: one line for each finished mini-batch, and only what it names exists.

A journal is written by one attempt. Its first line says whose it is; each further line is one mini-batch.
A last line without its newline is torn and does not count; nor does a line that cannot be read: a power cut
may leave a hole in what had not been flushed.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.exceptions import StorageError
from airflow_parallelrun.worker.protocol import FAILED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_parallelrun.engine.store import Store

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1

_EXTENT = '["%s",%d,%d,%d]'
_LINE = (
    '{"ordinal":%d,"status":"%s","tries":%d,"items_in":%d,"items_ok":%d,"rows_out":%d,"extents":[%s],'
    '"seconds":%.6f,"cpu_seconds":%.6f,"process":"%s","finished":%.3f,"error":%s%s}\n'
)


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
    :param items_in: items that it has
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
    def succeeded(self) -> bool:
        """Whether its rows count; a mini-batch that came back short has succeeded with what it returned."""
        return self.status != FAILED

    def encode(self) -> bytes:
        """Return the line.

        %-formatting costs a fifth of json.dumps, and a line is written for every mini-batch.
        """
        error = "null" if self.error is None else _json(self.error)
        extents = ",".join([_EXTENT % extent for extent in self.extents])
        parts = f',"parts":{_json(self.parts)}' if self.parts else ""
        return (_LINE % (*self[:6], extents, *self[7:11], error, parts)).encode()


class Record(NamedTuple):
    """A line and where it stands.

    :param attempt: who wrote it
    :param round: in which round
    :param line: the line
    """

    attempt: Attempt
    round: int
    line: Line


def header(plan_id: str, attempt: Attempt, round_: int) -> bytes:
    """Return a journal's first line."""
    record = {"format_version": FORMAT_VERSION, "plan_id": plan_id, "attempt": str(attempt), "round": round_}
    return json.dumps(record).encode() + b"\n"


def read_journal(store: Store, name: str, length: int, plan_id: str) -> Iterator[Record]:
    """Yield the lines of a journal up to a length.

    :param name: the journal's name in the run directory
    :param length: bytes that count
    :param plan_id: the plan that it must belong to
    :raises StorageError: when it belongs to another plan
    """
    with store.open(name) as file:
        lines = _whole_lines(file, length)
        try:
            attempt, round_ = _read_header(next(lines, b""), store.path(name), plan_id)
        except (ValueError, TypeError, KeyError) as error:
            if length:
                logger.warning("%s: nothing counts, its first line is damaged: %s", store.path(name), error)
            return
        for number, text in enumerate(lines, 2):
            try:
                line = _parse(text)
            except (ValueError, TypeError, KeyError) as error:
                logger.warning(
                    "%s: line %d is damaged and does not count: %s", store.path(name), number, error
                )
                continue
            yield Record(attempt, round_, line)


def _parse(text: bytes) -> Line:
    values = json.loads(text)
    values["extents"] = [Extent(*extent) for extent in values["extents"]]
    if parts := values.get("parts"):
        values["parts"] = [
            Part(*part)._replace(extents=[Extent(*extent) for extent in part[5]]) for part in parts
        ]
    return Line(**values)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _whole_lines(file: BinaryIO, length: int) -> Iterator[bytes]:
    """Yield the lines that end within a length."""
    end = 0
    for line in file:
        end += len(line)
        if end > length or not line.endswith(b"\n"):
            return
        yield line


def _read_header(line: bytes, path: str, plan_id: str) -> tuple[Attempt, int]:
    first = json.loads(line)
    if first["plan_id"] != plan_id or first["format_version"] != FORMAT_VERSION:
        raise StorageError(path, f"is not a journal of plan {plan_id} in format {FORMAT_VERSION}")
    return Attempt.parse(first["attempt"]), int(first["round"])
