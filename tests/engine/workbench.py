# SPDX-License-Identifier: Apache-2.0
"""Small parts for unit tests of the engine: a plan without a split, journal lines, a written journal."""

from __future__ import annotations

import os
import time
import zlib
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.journal import Extent, Line, Streak, header, parse
from airflow_parallelrun.engine.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from airflow_parallelrun.engine.names import Attempt

PLAN_ID = "5eed" * 8


def make_config(**values: Any) -> ParallelRunConfig:
    """A config that says only what a test asks for."""
    defaults: dict[str, Any] = {
        "environment": Environment(),
        "entry_script": "score.py",
        "error_threshold": -1,
        "output_action": "append_row",
        "compute_target": ComputeTarget(),
        "node_count": 1,
    }
    return ParallelRunConfig(**{**defaults, **values})


def make_plan(folder: Any, mini_batches: int = 4, items_each: int = 1, **values: Any) -> Plan:
    """A plan in memory; nothing is written."""
    config = values.pop("config", None) or make_config()
    defaults: dict[str, Any] = {
        "run_dir": str(folder),
        "plan_id": PLAN_ID,
        "owner": "test/1",
        "config": config,
        "arguments": [],
        "inputs": [],
        "sources": [{"type": "file"}],
        "output": None,
        "node_count": 1,
        "chunk_starts": list(range(mini_batches)),
        "mini_batches": mini_batches,
        "items": mini_batches * items_each,
        "code_sha256": "0" * 64,
        "entry_script": "score.py",
        "models_root": None,
        "created_at": "2026-01-01T00:00:00Z",
        "split_seconds": 0.1,
    }
    return Plan(**{**defaults, **values})


def make_line(ordinal: int, status: str = "ok", **values: Any) -> Line:
    """A journal line of a mini-batch with one item."""
    ok = int(status == "ok")
    error = None if ok else {"type": "ValueError", "message": "broken", "frame": None, "traceback": ""}
    defaults: dict[str, Any] = {
        "tries": 1,
        "items_in": 1,
        "items_ok": ok,
        "rows_out": ok,
        "extents": [],
        "seconds": 0.5,
        "cpu_seconds": 0.25,
        "process": "process000",
        "finished": 1750000000.5,
        "error": error,
    }
    return Line(ordinal=ordinal, status=status, **{**defaults, **values})


def make_streak(
    first: int, rows: Sequence[bytes], segment: str = "segments/0-1-0-0", **values: Any
) -> Streak:
    """A streak of mini-batches with one item each, whose rows begin the segment."""
    each = range(1, len(rows) + 1)
    defaults: dict[str, Any] = {
        "process": "process000",
        "segment": segment,
        "offset": 0,
        "crc32": zlib.crc32(b"".join(rows)),
        "began": 1750000000.25,
        "items": [1] * len(rows),
        "rows_out": [1] * len(rows),
        "lengths": [len(row) for row in rows],
        "run_us": [10 * n for n in each],
        "cpu_us": [9 * n for n in each],
        "ended_us": [1_000_000 * n for n in each],
    }
    return Streak(streak=first, **{**defaults, **values})


def extent(segment: str, offset: int, data: bytes) -> Extent:
    """The extent of bytes that stand in a segment."""
    return Extent(segment, offset, len(data), zlib.crc32(data))


def write_growing(plan: Plan, name: str, data: bytes) -> str:
    """Write a growing file as one process would."""
    fd = plan.store.create_growing(name)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    return name


def write_journal(plan: Plan, attempt: Attempt, lines: Iterable[Line | Streak], round_: int = 0) -> str:
    """Write an attempt's journal."""
    data = header(plan.plan_id, attempt, round_) + b"".join(line.encode() for line in lines)
    return write_growing(plan, f"{names.JOURNAL}/{attempt}-0.jsonl", data)


def journalled(path: Path) -> list[Line]:
    """What a journal says of each mini-batch, as far as it is whole; nothing without one."""
    text = path.read_bytes() if path.exists() else b""
    whole = [line for line in text.splitlines(keepends=True)[1:] if line.endswith(b"\n")]
    return [line for entry in map(parse, whole) for line in entry.lines()]


def wait_for(condition, seconds=30.0):
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


class OneRun:
    """What a run has agreed on, header or schema, as a store has it and as a node answers."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def agree(self, header: str, version: int = 0) -> str:
        """Answer as a node does."""
        return self.objects.setdefault(names.header(version), header.encode()).decode()

    def exists(self, name: str) -> bool:
        """As a store."""
        return name in self.objects

    def read(self, name: str) -> bytes:
        """As a store."""
        return self.objects[name]

    def path(self, name: str) -> str:
        """As a store."""
        return f"run/{name}"
