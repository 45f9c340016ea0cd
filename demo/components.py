# SPDX-License-Identifier: Apache-2.0
"""Start background processes with a pid file and a log file, and stop them with all that they started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

# psutil derives the start time from the boot time, which moves when the clock is corrected.
_CLOCK_TOLERANCE_S = 2.0


@dataclass(frozen=True)
class Component:
    """A process that leads its own session, as its pid file names it."""

    name: str
    pid: int
    created: float

    def is_alive(self) -> bool:
        """Tell whether this very process runs: not a zombie, and not another one with its pid."""
        try:
            process = psutil.Process(self.pid)
            alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            return alive and abs(process.create_time() - self.created) < _CLOCK_TOLERANCE_S
        except psutil.NoSuchProcess:
            return False

    def members(self) -> list[psutil.Process]:
        """List what lives in the component's session or descends from it, itself included.

        A session id is not given to a new process while a member lives, so the forks of a killed
        leader are found as well.
        """
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                older = process.create_time() < self.created - _CLOCK_TOLERANCE_S
                if os.getsid(process.pid) == self.pid and not older:
                    found[process.pid] = process
        if found and (self.pid not in found or self.is_alive()):
            for process in list(found.values()):
                with contextlib.suppress(psutil.Error):
                    found.update((child.pid, child) for child in process.children(recursive=True))
            return list(found.values())
        return []


class Components:
    """The processes whose pid files lie in one folder."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.logs = logs
        # What a killed component started may live on.
        self._killed = folder / "killed"
        self._children: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        *,
        again: bool = False,
    ) -> None:
        """Start one component; its output goes to ``<logs>/<name>.log``.

        :param again: go on with the log of the one that was killed
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab" if again else "wb") as log:
            child = subprocess.Popen(
                argv,
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children.append(child)
        created = psutil.Process(child.pid).create_time()
        (self.folder / f"{name}.json").write_text(json.dumps({"pid": child.pid, "created": created}))

    def log(self, name: str) -> Path:
        """Return the log file of the component."""
        return self.logs / f"{name}.log"

    def listed(self) -> list[Component]:
        """Return every component that has a pid file, alive or not, and was not killed here."""
        return _read(self.folder)

    def kill(self, name: str, *, family: bool) -> None:
        """End one component with SIGKILL, as a crash does.

        :param family: with what it started; else that goes on, and ends with :meth:`stop`
        :raises KeyError: when there is no such component, or it has ended already
        """
        component = {each.name: each for each in self.listed() if each.is_alive()}[name]
        if family:
            self._kill_until_none([component], component.members())
        else:
            leader = psutil.Process(component.pid)
            leader.kill()
            leader.wait(timeout=10)
        for child in self._children:
            if child.pid == component.pid:
                child.wait()
        self._killed.mkdir(exist_ok=True)
        (self.folder / f"{name}.json").rename(self._killed / f"{name}-{component.pid}.json")

    def stop(self, grace_s: float = 5.0) -> bool:
        """End every component and what it started; return whether anything was alive.

        SIGTERM goes to the leaders alone: they know how to end their own children. What is left
        after ``grace_s`` is killed.
        """
        components = [*self.listed(), *_read(self._killed)]
        tree = _unique(member for component in components for member in component.members())
        for component in components:
            if component.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(component.pid, signal.SIGTERM)
        psutil.wait_procs(tree, timeout=grace_s)
        self._kill_until_none(components, tree)
        for child in self._children:
            child.wait()
        self._children.clear()
        for path in (*self.folder.glob("*.json"), *self._killed.glob("*.json")):
            path.unlink(missing_ok=True)
        return bool(tree)

    @staticmethod
    def _kill_until_none(components: Sequence[Component], tree: Iterable[psutil.Process]) -> None:
        deadline = time.monotonic() + 10
        alive = [process for process in tree if process.is_running()]
        while time.monotonic() < deadline:
            alive = _unique([*alive, *(member for component in components for member in component.members())])
            if not alive:
                return
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            _, alive = psutil.wait_procs(alive, timeout=1)


def _read(folder: Path) -> list[Component]:
    found = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(path.read_text())
            found.append(Component(path.stem, int(entry["pid"]), float(entry["created"])))
    return found


def _unique(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return list({process.pid: process for process in processes}.values())
