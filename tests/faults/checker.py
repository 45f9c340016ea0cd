# SPDX-License-Identifier: Apache-2.0
"""The one checker of what a run promises; it imports nothing of the package.

It reads the output, the run directory, the script's own record of its calls, and what the suite noted before
each start of nodes; and it says every breach of a promise. The formats are those of docs/run-directory.md,
read here by other code than the engine's.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

LOST, DOUBLED, TORN, LEDGER, LEFT_OVER, FOREIGN, REDONE = KINDS = (
    "lost",  # rows of a healthy item are not in the output
    "doubled",  # rows are there more than once
    "torn",  # a line is not exactly a row, or rows are not in the order of the plan
    "ledger",  # result, failed items, journals and output do not add up
    "left over",  # a process, a temporary file or a temporary folder
    "foreign",  # somebody else's file was touched, or an unknown one appeared
    "redone",  # what was journalled before a start was run again by it
)
OUTPUT_FILE = "rows.txt"
_OURS = {OUTPUT_FILE, "failed_items.jsonl", "job_result.json", "logs", ".parallelrun"}


class Breach(NamedTuple):
    """A promise that was not kept."""

    kind: str
    text: str


@dataclass(frozen=True)
class Evidence:
    """What the checker looks at.

    :param output: the output folder
    :param run_dir: the run directory
    :param calls: a file for each worker process, ``<attempt>-<process>-<pid>``, with the items it was given
    :param marks: what was there before each start of nodes: ``{"attempts": […], "journals": {name: length}}``
    :param temp: the folder of temporary files, which must be empty
    :param tag: bytes in the environment or the command line of every process of the run, and of no other
    :param may_fail: items that may end as failed; all others must be in the output
    :param foreign: files of somebody else, with what :func:`fingerprint` said of them before
    """

    output: Path
    run_dir: Path
    calls: Path
    marks: Path
    temp: Path
    tag: str
    may_fail: frozenset[str] = frozenset()
    foreign: dict[str, str] = field(default_factory=dict)


def content(name: str) -> list[str]:
    """Return the lines that the input file of an item has, by its name alone."""
    lines = []
    for number in range(1 + zlib.crc32(name.encode()) % 3):
        digest = hashlib.sha256(f"{name}/{number}".encode()).hexdigest()
        lines.append(digest * (1 + int(digest[0], 16) // 4))
    return lines


def rows(name: str) -> list[str]:
    """Return the rows of an item; each says whose it is, which of how many, and has its own checksum."""
    lines = content(name)
    found = []
    for number, line in enumerate(lines, 1):
        text = f"{name} {number}/{len(lines)} {line}"
        found.append(f"{text} {zlib.crc32(text.encode()):08x}")
    return found


def fingerprint(path: Path) -> str:
    """Return what changes when anybody touches a file."""
    status = path.lstat()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{status.st_ino} {status.st_mtime_ns} {status.st_mode} {digest}"


def processes(tag: str) -> list[str]:
    """Return the living processes with the tag: number and command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            alive = b") Z " not in (folder / "stat").read_bytes()
            if alive and tag.encode() in command + (folder / "environ").read_bytes():
                found.append(f"{folder.name} {command.replace(bytes(1), b' ').decode(errors='replace')}")
        except OSError:  # gone meanwhile
            continue
    return found


def check(evidence: Evidence) -> list[Breach]:
    """Return every breach that can be found."""
    breaches = [Breach(LEFT_OVER, f"process {text}") for text in processes(evidence.tag)]
    breaches += _left_files(evidence)
    breaches += _foreign(evidence)
    account = Account(evidence.run_dir)
    breaches += account.redone(evidence)
    result_path = evidence.output / "job_result.json"
    if not result_path.exists():
        return [*breaches, Breach(LEDGER, "there is no job_result.json")]
    result = json.loads(result_path.read_bytes())
    found, present = _output(account, evidence)
    breaches += found
    breaches += _lost(account, evidence, result, present)
    breaches += _ledger(account, result)
    breaches += _failed_items(account, evidence)
    breaches += _parts(account)
    return breaches


class Line(NamedTuple):
    """A journal line whose bytes are there."""

    attempt: tuple[int, int]  # node, k
    round: int
    place: int
    end: int
    content: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        """Whether its rows count."""
        return str(self.content["status"]) in ("ok", "short")


class Account:
    """The run directory as this checker understands it."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self.plan = json.loads((run_dir / "plan.json").read_bytes())
        lines = (run_dir / "mini_batches.jsonl").read_text().splitlines()[1:]
        self.items = {
            ordinal: [item[0] for item in json.loads(line)[1:]] for ordinal, line in enumerate(lines)
        }
        self.order = [os.path.basename(path) for paths in self.items.values() for path in paths]
        self._segments: dict[str, bytes] = {}
        self.journals = {
            path.name: list(self._read_journal(path))
            for path in sorted((run_dir / "journal").glob("*.jsonl"))
        }
        self.seal = self._last_seal()
        self.winners = self._winners()

    def _read_journal(self, path: Path) -> list[Line]:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        if not whole:
            return []
        header = json.loads(whole[0])
        node, k = map(int, header["attempt"].split("-"))
        found, end = [], len(whole[0])
        for place, text in enumerate(whole[1:]):
            end += len(text)
            found += [
                Line((node, k), header["round"], place, end, values)
                for values in self._intact_lines(json.loads(text))
            ]
        return found

    def _intact_lines(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the lines of single mini-batches that a line is, or stands for, if its bytes are there."""
        if "streak" not in values:
            if all(self._intact(*extent) for extent in values["extents"]):
                yield values
            return
        offset = values["offset"]
        if not self._intact(values["segment"], offset, sum(values["lengths"]), values["crc32"]):
            return
        columns = zip(values["items"], values["rows_out"], values["lengths"], strict=True)
        for ordinal, (items, rows_out, length) in enumerate(columns, values["streak"]):
            if ordinal not in values.get("without", ()):
                yield {
                    "ordinal": ordinal,
                    "status": "ok",
                    "items_in": items,
                    "items_ok": items,
                    "rows_out": rows_out,
                    "extents": [[values["segment"], offset, length, None]],
                }
            offset += length

    def _intact(self, segment: str, offset: int, length: int, crc32: int) -> bool:
        if segment not in self._segments:
            path = self._run_dir / segment
            self._segments[segment] = path.read_bytes() if path.exists() else b""
        part = self._segments[segment][offset : offset + length]
        return len(part) == length and zlib.crc32(part) == crc32

    def _last_seal(self) -> dict[str, Any]:
        paths = sorted(
            (self._run_dir / "rounds").glob("*/sealed.json"), key=lambda path: int(path.parent.name)
        )
        return dict(json.loads(paths[-1].read_bytes())) if paths else {"round": -1, "journals": []}

    def _winners(self) -> dict[int, Line]:
        """Return the line that counts for each mini-batch.

        Ok comes first, then short, more items before fewer; then the lowest (k, node, place). Of failures it
        is the latest round's.
        """
        winners: dict[int, tuple[Any, Line]] = {}
        for name, length in self.seal["journals"]:
            for line in self.journals[os.path.basename(name)]:
                if line.end > length:
                    break
                (node, k), ordinal = line.attempt, line.content["ordinal"]
                better = ("ok", "short", "failed").index(line.content["status"])
                latest = 0 if line.succeeded else -line.round
                rank = (better, -line.content["items_ok"], latest, k, node, line.place)
                if ordinal not in winners or rank < winners[ordinal][0]:
                    winners[ordinal] = (rank, line)
        return {ordinal: line for ordinal, (_, line) in winners.items()}

    def status(self, ordinal: int) -> str:
        """Return ok, short, failed or unprocessed."""
        return str(self.winners[ordinal].content["status"]) if ordinal in self.winners else "unprocessed"

    def parts(self, ordinal: int, line: dict[str, Any]) -> Iterator[tuple[list[str], str, int]]:
        """Yield items, status and items that succeeded: of each part of a mini-batch that was bisected."""
        items = self.items[ordinal]
        for first, count, status, items_ok, *_ in line.get("parts") or [
            (0, len(items), line["status"], line["items_ok"])
        ]:
            yield items[first : first + count], status, items_ok

    def redone(self, evidence: Evidence) -> list[Breach]:
        """Find what a start of a node ran although it was journalled before that start."""
        marks = [json.loads(path.read_bytes()) for path in sorted(evidence.marks.iterdir())]
        breaches = []
        for path in sorted((self._run_dir / "attempts").glob("[0-9]*-[0-9]*")):
            attempt = tuple(map(int, path.name.split("-")))
            before = [mark for mark in marks if path.name not in mark["attempts"]]
            if not before:
                continue
            done = self._done(before[-1]["journals"], attempt, json.loads(path.read_bytes())["round"])
            for calls in sorted(evidence.calls.glob(f"{path.name}-*")):
                again = sorted(done.intersection(calls.read_text().split()))
                breaches += [Breach(REDONE, f"{item} by {path.name}") for item in again]
        return breaches

    def _done(self, journals: dict[str, int], attempt: tuple[int, ...], round_: int) -> set[str]:
        """Return the items that were done at a mark: for good, or by the same node in the same round."""
        done: set[str] = set()
        asked = [int(path.name.split("-")[0]) for path in (self._run_dir / "redrives").glob("*-*")]
        redriven = any(first <= round_ for first in asked)
        for name, length in journals.items():
            for line in self.journals[name]:
                own = line.round == round_ and line.attempt[0] == attempt[0]
                if line.end > length:
                    continue
                for items, status, _ in self.parts(line.content["ordinal"], line.content):
                    # A redrive runs again what came back short, and the parts that failed.
                    if own or (status == "ok" if redriven else line.succeeded):
                        done |= {os.path.basename(path) for path in items}
        return done


def _left_files(evidence: Evidence) -> list[Breach]:
    left = {*evidence.output.rglob(".tmp-*"), *evidence.run_dir.rglob(".tmp-*"), *evidence.temp.iterdir()}
    return [Breach(LEFT_OVER, f"file {path}") for path in sorted(left) if str(path) not in evidence.foreign]


def _foreign(evidence: Evidence) -> list[Breach]:
    found = []
    for name, before in evidence.foreign.items():
        path = Path(name)
        if not path.exists():
            found.append(Breach(FOREIGN, f"{name} is gone"))
        elif path.is_file() and fingerprint(path) != before:
            found.append(Breach(FOREIGN, f"{name} has changed"))
    for path in evidence.output.iterdir():
        if path.name not in _OURS and str(path) not in evidence.foreign:
            kind = LEFT_OVER if path.name.startswith(".tmp-") else FOREIGN
            found.append(Breach(kind, f"{path} appeared in the output"))
    return found


def _output(account: Account, evidence: Evidence) -> tuple[list[Breach], Counter[str]]:
    """Read the output file; return what is wrong in itself, and how often each item is there whole."""
    path = evidence.output / OUTPUT_FILE
    if not path.exists():
        return [], Counter()
    data = path.read_bytes()
    breaches = []
    if data and not data.endswith(b"\n"):
        breaches.append(Breach(TORN, "the last line has no newline"))
    owners = {row: (name, number) for name in account.order for number, row in enumerate(rows(name))}
    sequence = []
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        if line in owners:
            sequence.append(owners[line])
        else:
            breaches.append(Breach(TORN, f"line {number} is no row: {line[:80]!r}"))
    counts = Counter(sequence)
    breaches += [
        Breach(DOUBLED, f"{name} row {n}: {count}") for (name, n), count in counts.items() if count > 1
    ]
    present: Counter[str] = Counter()
    for name in dict.fromkeys(name for name, _ in sequence):
        each = [counts[name, number] for number in range(len(rows(name)))]
        if 0 in each:
            breaches.append(Breach(TORN, f"{name} has only a part of its rows"))
        present[name] = min(each)
    place = {name: number for number, name in enumerate(account.order)}
    if not breaches and sequence != sorted(sequence, key=lambda row: (place[row[0]], row[1])):
        breaches.append(Breach(TORN, "the rows are not in the order of the plan"))
    return breaches, present


def _lost(
    account: Account, evidence: Evidence, result: dict[str, Any], present: Counter[str]
) -> list[Breach]:
    """Compare the items that are in the output with the ledger, and with what had to succeed."""
    if result["verdict"] == "failed":
        exists = (evidence.output / OUTPUT_FILE).exists()
        return [Breach(LEDGER, "a failed job has an output file")] if exists else []
    breaches = []
    for ordinal, paths in account.items.items():
        names = [os.path.basename(path) for path in paths]
        there = [name for name in names if present[name]]
        status = account.status(ordinal)
        expected = account.winners[ordinal].content["items_ok"] if ordinal in account.winners else 0
        if len(there) < expected:
            breaches.append(Breach(LOST, f"mini-batch {ordinal}, {status}: {len(there)} of {expected} items"))
        elif len(there) > expected:
            breaches.append(
                Breach(LEDGER, f"mini-batch {ordinal}, {status}: {len(there)} items, not {expected}")
            )
        innocent = [name for name in names if not present[name] and name not in evidence.may_fail]
        if innocent and len(there) >= expected:
            breaches.append(Breach(LOST, f"mini-batch {ordinal} is {status}; {innocent} had to succeed"))
    return breaches


def _ledger(account: Account, result: dict[str, Any]) -> list[Breach]:
    states = Counter(account.status(ordinal) for ordinal in account.items)
    lines = [line.content for line in account.winners.values()]
    items_in, items_ok = sum(line["items_in"] for line in lines), sum(line["items_ok"] for line in lines)
    expected = {
        "mini_batches": len(account.items),
        "succeeded": states["ok"],
        "short": states["short"],
        "failed": states["failed"],
        "unprocessed": states["unprocessed"],
        "items": len(account.order),
        "items_succeeded": items_ok,
        "items_failed": items_in - items_ok,
        "items_unprocessed": len(account.order) - items_in,
        "rows": sum(line["rows_out"] for line in lines),
    }
    breaches = [
        Breach(LEDGER, f"job_result.json has {key} {result['counts'].get(key)}, the journals {value}")
        for key, value in expected.items()
        if result["counts"].get(key) != value
    ]
    if result["round"] != account.seal["round"] or result["plan_id"] != account.plan["plan_id"]:
        breaches.append(
            Breach(LEDGER, f"job_result.json is of round {result['round']}, not of the last seal")
        )
    clean = states["ok"] == len(account.items)
    if (result["verdict"] == "succeeded") != clean and result["verdict"] != "failed":
        breaches.append(
            Breach(LEDGER, f"the verdict is {result['verdict']!r}, the states are {dict(states)}")
        )
    return breaches


def _parts(account: Account) -> list[Breach]:
    """Compare the parts of bisected mini-batches with the whole."""
    breaches = []
    for ordinal, line in account.winners.items():
        parts = line.content.get("parts", [])
        ends = [first + count for first, count, *_ in parts]
        sums = [sum(part[3] for part in parts), sum(part[4] for part in parts)]
        whole = [line.content["items_ok"], line.content["rows_out"]]
        extents = [extent for part in parts for extent in part[5]]
        gapless = [first for first, *_ in parts] == [0, *ends][:-1]
        complete = gapless and ends[-1:] == [len(account.items[ordinal])]
        if parts and not (complete and sums == whole and extents == line.content["extents"]):
            breaches.append(Breach(LEDGER, f"the parts of mini-batch {ordinal} are not the whole: {parts}"))
    return breaches


def _failed_items(account: Account, evidence: Evidence) -> list[Breach]:
    path = evidence.output / "failed_items.jsonl"
    told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    failed = Counter(line["item"] for line in told if "item" in line)
    short = {(line["mini_batch"], *line["items"]): line["missing"] for line in told if "items" in line}
    expected_failed: Counter[str] = Counter()
    expected_short = {}
    for ordinal, line in account.winners.items():
        for items, status, items_ok in account.parts(ordinal, line.content):
            if status == "failed":
                expected_failed.update(items)
            elif status == "short":
                expected_short[(ordinal, *items)] = len(items) - items_ok
    if failed == expected_failed and short == expected_short:
        return []
    return [
        Breach(
            LEDGER,
            f"failed_items.jsonl has {dict(failed)} {short}, not {dict(expected_failed)} {expected_short}",
        )
    ]
