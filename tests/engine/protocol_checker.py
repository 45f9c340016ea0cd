# SPDX-License-Identifier: Apache-2.0
"""What must hold of a run directory, by somebody who reads it without the engine's help."""

from __future__ import annotations

import functools
import json
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from memory_store import Disk


class Entry(NamedTuple):
    """A journal line whose bytes are there.

    :param rank: the lower wins, among equals
    """

    rank: tuple[int, int, int]
    round: int
    ordinal: int
    status: str
    items_ok: int
    rows: bytes


class Truth(NamedTuple):
    """What a seal says.

    :param statuses: of each mini-batch; None when it is unprocessed
    :param output: the output file's bytes
    """

    statuses: list[str | None]
    output: bytes

    @property
    def counts(self) -> dict[str, int]:
        """How many mini-batches are in which state."""
        named = {"succeeded": "ok", "short": "short", "failed": "failed", "unprocessed": None}
        return {name: self.statuses.count(status) for name, status in named.items()}


def seals(disk: Disk, run: str) -> dict[int, bytes]:
    """Return each sealed round's seal."""
    found: dict[int, bytes] = {}
    while disk.find(path := f"{run}/rounds/{len(found)}/sealed.json"):
        found[len(found)] = disk.content(path)
    return found


def rounds_of_attempts(disk: Disk, run: str) -> dict[str, int]:
    """Return the round of each attempt."""
    return {name: json.loads(file.content)["round"] for name, file in disk.files(f"{run}/attempts").items()}


def entries(
    disk: Disk, run: str, lengths: dict[str, int] | None = None, flushed: bool = False
) -> list[Entry]:
    """Return the lines of all journals.

    :param lengths: the bytes of each journal that count; default all
    :param flushed: take only what would survive a power cut
    """
    found = []
    segments = {
        f"segments/{name}": file.flushed if flushed else bytes(file.content)
        for name, file in disk.files(f"{run}/segments").items()
    }
    for name, file in disk.files(f"{run}/journal").items():
        content = file.flushed if flushed else bytes(file.content)
        if lengths is not None:
            content = content[: lengths.get(f"journal/{name}", 0)]
        first, *lines = content.split(b"\n")[:-1] or [b""]
        start = _parse(first)
        if start is None:
            continue
        node, k = map(int, name.split("-")[:2])
        for place, text in enumerate(lines):
            found += _entries((k, node, place), start["round"], text, segments)
    return found


def _entries(rank: tuple[int, int, int], round_: int, text: bytes, segments: dict[str, bytes]) -> list[Entry]:
    """Return what a line says of each mini-batch, if its rows are there."""
    line = _parse(text)
    if line is None:
        return []
    rows = []
    for segment, offset, length, crc32 in _extents(line):
        part = segments.get(segment, b"")[offset : offset + length]
        if len(part) != length or zlib.crc32(part) != crc32:
            return []
        rows.append(part)
    data = b"".join(rows)
    if "streak" not in line:
        return [Entry(rank, round_, line["ordinal"], line["status"], line["items_ok"], data)]
    found = []
    columns = zip(line["items"], line["lengths"], strict=True)
    for ordinal, (items, length) in enumerate(columns, line["streak"]):
        if ordinal not in line.get("without", ()):
            found.append(Entry(rank, round_, ordinal, "ok", items, data[:length]))
        data = data[length:]
    return found


def _extents(line: dict[str, Any]) -> list[list[Any]]:
    if "streak" in line:
        return [[line["segment"], line["offset"], sum(line["lengths"]), line["crc32"]]]
    return list(line["extents"])


def without_rows(disk: Disk, run: str) -> list[bytes]:
    """Return the lines that would survive a power cut while the rows that they name would not."""
    segments = {f"segments/{name}": file.flushed for name, file in disk.files(f"{run}/segments").items()}
    found = []
    for file in disk.files(f"{run}/journal").values():
        for text in file.flushed.split(b"\n")[1:-1]:
            line = _parse(text)
            if line and any(len(segments[name]) < at + length for name, at, length, _ in _extents(line)):
                found.append(text)
    return found


@functools.lru_cache(maxsize=1 << 14)
def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # torn by a power cut
        return None


def truth(found: list[Entry], mini_batches: int) -> Truth:
    """Return what became of each mini-batch: ok, then short, then failed; more items; the lowest rank."""
    statuses: list[str | None] = []
    output = []
    for ordinal in range(mini_batches):
        mine = [each for each in found if each.ordinal == ordinal]
        good = [each for each in mine if each.status != "failed"]
        better = lambda each: (each.status != "ok", -each.items_ok, each.rank)  # noqa: E731
        winner = min(good, key=better) if good else None
        statuses.append(winner.status if winner else "failed" if mine else None)
        output.append(winner.rows if winner else b"")
    return Truth(statuses, b"".join(output))


def lengths_of(seal: bytes) -> dict[str, int]:
    """Return the journals that a seal names."""
    return dict(json.loads(seal)["journals"])
