# SPDX-License-Identifier: Apache-2.0
"""Process trees: who is in them, how much memory they hold, how much CPU time they have used."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

_SAMPLE_S = 0.1


@dataclass(frozen=True)
class Memory:
    """Peaks in MB of what is really held: shared pages count once (PSS).

    :param tree_mb: of all processes together
    :param others_mb: of all but those that run the script
    """

    tree_mb: float
    others_mb: float


class Sampler:
    """Looks at the memory of a process tree every so often, in a thread.

    :param root: its process id; it does not count itself
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._samples: list[dict[int, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def peaks(self, workers: set[int]) -> Memory:
        """Return the peaks.

        :param workers: the processes that have run the script
        """
        trees = [sum(sample.values()) for sample in self._samples]
        others = [sum(size for pid, size in sample.items() if pid not in workers) for sample in self._samples]
        return Memory(max(trees, default=0) / 1000, max(others, default=0) / 1000)

    def _look(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self._samples.append({pid: size for pid in descendants(self._root) if (size := pss_kb(pid))})


def descendants(root: int) -> set[int]:
    """Return the process ids below a process."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := _parent(name)) is not None:
            children.setdefault(parent, []).append(int(name))
    found: set[int] = set()
    below = [root]
    while below:
        new = children.get(below.pop(), [])
        found.update(new)
        below += new
    return found


def pss_kb(pid: int) -> int:
    """Return a process's share of memory in kB; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("Pss:")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds of processes that live, and of their children that do not any more."""
    ticks = 0
    for pid in pids:
        fields = _stat(str(pid))
        ticks += sum(map(int, fields[11:15])) if fields else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def _parent(pid: str) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _stat(pid: str) -> list[str]:
    """Return what stands behind the name in a process's stat: state, parent, …; nothing when it is gone."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
