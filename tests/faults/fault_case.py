# SPDX-License-Identifier: Apache-2.0
"""One run with faults: it is started, hurt, and continued as a person or Airflow would, until it ends."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import checker
import fault_store
from faulty_proxy import BUSY, CUT, proxied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
# As fault_driver.py says; it imports the engine, which this process must not.
DONE, VERDICT, RETRYABLE, TERMINAL = 0, 3, 4, 5
FROZEN, STUCK = "frozen", "stuck"
# A fault of this name belongs to the run as it is: a mini-batch that fails.
GIVEN = "given"
STEP_TRIES = 6
ROUNDS = 4
# A step takes a second; on a machine that does other things as well, many.
LIMIT_S = 180.0
THAW_AFTER_S = 0.3

FAST = {
    "engine.committer.INTERVAL_S": 0.05,
    "engine.committer.BACKOFF_S": 0.02,
    "engine.session.CONTROL_INTERVAL_S": 0.2,
    "engine.session.DEADLINE_INTERVAL_S": 0.1,
}
# Of a run in an object store: what is committed, looked at and uploaded is small, and soon.
FAST_OBJECTS = {
    "engine.committer.BACKOFF_S": 0.02,
    "driver_errors.BACKOFF_S": 0.02,
    "engine.committed_objects.SHORTEST_INTERVAL_S": 0.05,
    "engine.committed_objects.LONGEST_INTERVAL_S": 0.05,
    "engine.long_runs.LONG_S": 0.1,
    "engine.session.OBJECTS_INTERVAL_S": 0.2,
    "engine.session.DEADLINE_INTERVAL_S": 0.1,
    "engine.workplace._UPLOAD_INTERVAL_S": 0.3,
    "engine.object_writer.PART_BYTES": 1000,
}


@dataclass
class Scenario:
    """What is run and what hurts it.

    :param steps: the faults of each try of a step, by its name: split, node 0, node 1, …, reduce
    :param worker: the faults of the worker processes
    :param may_fail: mini-batches that may end as failed
    :param may_fail_items: items that may, by themselves
    :param apart: run directories outside the output folder
    :param twins: two reduces at once
    :param redrive: what has failed when it has succeeded is run once more; ``redrive`` is a step, too
    :param thaw_early: a frozen try goes on while its successor runs; else after reduce
    :param damage: what happens to files between two steps; see ``_DAMAGE``
    :param disk_bytes: run directory and output on a disk of their own with so much left
    :param group: a control group for processes that eat memory
    :param network: how probable it is that a request to the store meets a fate of ``faulty_proxy``
    :param outage: the store is away from the k-th request on, for so many
    """

    items: int = 24
    items_each: int = 2
    nodes: int = 1
    processes: int = 2
    pause_s: float = 0.005
    config: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, float] = field(default_factory=lambda: dict(FAST))
    steps: dict[str, list[list[dict[str, Any]]]] = field(default_factory=dict)
    worker: list[dict[str, Any]] = field(default_factory=list)
    may_fail: set[int] = field(default_factory=set)
    may_fail_items: set[int] = field(default_factory=set)
    apart: bool = False
    twins: bool = False
    redrive: bool = False
    thaw_early: bool = False
    damage: str = ""
    disk_bytes: int | None = None
    group: str = ""
    network: dict[str, float] = field(default_factory=dict)
    outage: tuple[int, int] = (0, 0)


@dataclass
class Outcome:
    """What became of a run.

    :param injected: the faults that really struck
    :param survived: it came to an end, and the end was a success
    :param unexplained: errors that are none of the package's own
    """

    injected: list[str]
    survived: bool
    breaches: list[checker.Breach]
    unexplained: list[str]
    seconds: float


class Case:
    """A scenario in a folder of its own.

    :param folder: new; its name is in the environment or the command line of each process of the run
    :param container: where output and run directory are; None: in the folder
    """

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        rng: random.Random,
        container: fault_store.Container | None = None,
    ) -> None:
        self.scenario = scenario
        self.folder = folder
        self._rng = rng
        # Steps that were stopped; and those of them that go on again.
        self._frozen: list[subprocess.Popen[bytes]] = []
        self._thawed: list[subprocess.Popen[bytes]] = []
        # By process: when it was started, and its name.
        self._started: dict[int, tuple[float, str]] = {}
        self._tries: Counter[str] = Counter()
        self._done_damage: list[str] = []
        self._unexplained: list[str] = []
        self._disk = folder / "disk"
        self._container = container
        self._environment: dict[str, str] = {}
        # Of a run in a container it is a copy, which only this and the checker read.
        self._home = self._disk if scenario.disk_bytes is not None or container else folder
        self.output = self._home / "output"

    def play(self) -> Outcome:
        """Do all of it."""
        started = time.monotonic()
        self._prepare()
        try:
            with self._network():
                survived = self._live()
                self._settle()
            self._look_into_store()
            breaches = checker.check(self._evidence()) if self._planned else []
        finally:
            self._clean_up()
        fired = {path.name for path in (self.folder / "fired").iterdir()} - {GIVEN}
        injected = sorted(fired) + self._done_damage
        return Outcome(injected, survived, breaches, self._unexplained, time.monotonic() - started)

    @property
    def _planned(self) -> bool:
        return (self.folder / "plan.txt").exists()

    @property
    def _run_dir(self) -> Path:
        path = (self.folder / "plan.txt").read_text()
        if self._container is None:
            return Path(path)
        return self._home / path.removeprefix(f"{self._container.url}/")

    @contextlib.contextmanager
    def _network(self) -> Iterator[None]:
        """Put between the processes and the store what the scenario wants there."""
        if self._container is None:
            yield
            return
        if not self.scenario.network and not self.scenario.outage[1]:
            self._environment = fault_store.environment(self._container.endpoint)
            yield
            return
        with proxied(self._container.endpoint, self._fate()) as proxy:
            self._environment = fault_store.environment(proxy.url)
            yield
        self._done_damage += sorted(set(proxy.fates()))

    def _fate(self) -> Callable[[str, str], str | None]:
        rng = random.Random(self._rng.random())
        fates = self.scenario.network
        away_from, away_for = self.scenario.outage
        requests = 0

        def fate(_method: str, _path: str) -> str | None:
            nonlocal requests
            requests += 1
            if away_from <= requests < away_from + away_for:
                return rng.choice([BUSY, CUT])
            drawn = rng.choices([*fates, None], [*fates.values(), 1 - sum(fates.values())])
            return drawn[0]

        return fate

    def _look_into_store(self) -> None:
        if self._container is not None:
            self._container.copy_to(self._home)

    def _prepare(self) -> None:
        for name in ("input", "source", "calls", "marks", "fired", "temp", "logs", "disk"):
            (self.folder / name).mkdir()
        for number in range(self.scenario.items):
            name = f"{number:05d}"
            text = "".join(line + "\n" for line in checker.content(name))
            (self.folder / "input" / name).write_text(text)
        for name in ("fault_script.py", "faulty_os.py"):
            shutil.copy(HERE / name, self.folder / "source")
        if self.scenario.disk_bytes is not None:
            _mount(self._disk, self.scenario.disk_bytes)
        if self._container is None:
            self.output.mkdir()
        self._foreign = self._put_foreign_files()
        (self.folder / "worker_faults.json").write_text(json.dumps(self.scenario.worker))
        (self.folder / "settings.json").write_text(json.dumps(self._settings()))

    def _settings(self) -> dict[str, Any]:
        scenario = self.scenario
        config = {
            "mini_batch_size": scenario.items_each,
            "node_count": scenario.nodes,
            "process_count_per_node": scenario.processes,
            "error_threshold": -1,
            **scenario.config,
        }
        variables = {
            "FAULT_FOLDER": str(self.folder),
            "FAULT_PAUSE_S": str(scenario.pause_s),
            "MEMORY_GROUP": scenario.group,
        }
        place = self._container.url if self._container else str(self._home)
        storage_root = f"{place}/runs" if scenario.apart else None
        return {
            "config": config,
            "variables": variables,
            "intervals": scenario.intervals,
            "output": f"{place}/output",
            "storage_root": storage_root,
        }

    def _put_foreign_files(self) -> dict[str, str]:
        names = ["output/notes.txt", "output/rows.txt.old", "output/.tmp-0123456789abcdef"]
        paths = [self._home / name for name in names]
        for path, name in zip(paths, names, strict=True):
            if self._container is None:
                path.write_text("somebody else's")
            else:
                self._container.put(name, b"somebody else's")
        self._look_into_store()
        folder = self.folder / "temp" / "parallelrun-notes"
        folder.mkdir()
        (folder / "file").write_text("somebody else's")
        inputs = (self.folder / "input").iterdir() if not self.scenario.damage else []
        found = {str(path): checker.fingerprint(path) for path in [*paths, folder / "file", *inputs]}
        return {**found, str(folder): ""}

    def _evidence(self) -> checker.Evidence:
        each = self.scenario.items_each
        may_fail = {n for batch in self.scenario.may_fail for n in range(batch * each, (batch + 1) * each)}
        may_fail |= self.scenario.may_fail_items
        return checker.Evidence(
            output=self.output,
            run_dir=self._run_dir,
            calls=self.folder / "calls",
            marks=self.folder / "marks",
            temp=self.folder / "temp",
            tag=self.folder.name,
            may_fail=frozenset(f"{number:05d}" for number in may_fail),
            foreign=self._foreign,
        )

    def _live(self) -> bool:
        """Split, run nodes, reduce, and that again while reduce fails; tell whether it ended well."""
        if not self._try("split"):
            return False
        self._hurt("before nodes")
        for _ in range(ROUNDS):
            self._run_nodes()
            self._hurt("before reduce")
            if self._reduce():
                return not self.scenario.redrive or self._redrive()
        return False

    def _redrive(self) -> bool:
        """Redrive; until a reduce has ended well the output must be the old one or the new one, and whole."""
        rows = self.output / checker.OUTPUT_FILE
        self._look_into_store()
        old = rows.read_bytes()
        if not self._try("redrive"):
            return False
        for _ in range(ROUNDS):
            self._run_nodes()
            self._look_into_store()
            if not rows.exists() or rows.read_bytes() != old:
                self._unexplained.append("the output has changed before reduce")
            if self._reduce():
                return True
        return False

    def _try(self, step: str) -> bool:
        """Run a step until it is done; tell whether it was, and not refused for good."""
        for _ in range(STEP_TRIES):
            status = self._wait(self._start(step))
            if status == DONE:
                return True
            if status in (VERDICT, TERMINAL):
                return False
        return False

    def _reduce(self) -> bool:
        if self.scenario.twins:
            twins = [self._start("reduce"), self._start("reduce")]
            if [self._wait(twin) for twin in twins] == [DONE, DONE]:
                return True
        return self._try("reduce")

    def _run_nodes(self) -> None:
        """Start every node, and each again that fails, as often as Airflow would; all at the same time."""
        self._mark()
        running = {index: self._start(f"node {index}") for index in range(self.scenario.nodes)}
        tries = dict.fromkeys(running, 1)
        while running:
            for index, node in list(running.items()):
                status = self._look(node)
                if status is None:
                    continue
                del running[index]
                if status not in (DONE, TERMINAL) and tries[index] < STEP_TRIES:
                    tries[index] += 1
                    self._mark()
                    running[index] = self._start(f"node {index}")
                    if status == FROZEN and self.scenario.thaw_early:
                        time.sleep(THAW_AFTER_S)
                        self._thaw()
            time.sleep(0.01)

    def _start(self, step: str) -> subprocess.Popen[bytes]:
        """Start a step with the faults of this try of it."""
        planned = self.scenario.steps.get(step, [])
        number = self._tries[step]
        self._tries[step] += 1
        name = f"{self._tries.total():02d}-{step.replace(' ', '-')}"
        faults = self.folder / "logs" / f"{name}.json"
        faults.write_text(json.dumps(planned[number] if number < len(planned) else []))
        command = [
            sys.executable,
            str(HERE / "fault_driver.py"),
            *step.split()[:1],
            str(self.folder),
            str(faults),
        ]
        environment = {**os.environ, **self._environment, "TMPDIR": str(self.folder / "temp")}
        with (self.folder / "logs" / f"{name}.txt").open("wb") as log:
            process = subprocess.Popen(
                [*command, *step.split()[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._started[process.pid] = (time.monotonic(), name)
        return process

    def _look(self, process: subprocess.Popen[bytes]) -> int | str | None:
        """Return how a process ended; FROZEN for one that was stopped; None while it runs."""
        began, name = self._started[process.pid]
        status = process.poll()
        if status is None and _is_stopped(process.pid):
            self._frozen.append(process)
            return FROZEN
        if status is None and time.monotonic() - began > LIMIT_S:
            self._unexplained.append(f"{name} did not end within {LIMIT_S:.0f} s")
            process.kill()
            process.wait()
            return STUCK
        if status == RETRYABLE:
            self._make_room()
        elif status == 1 or (status is not None and status < 0 and status != -signal.SIGKILL):
            log = (self.folder / "logs" / f"{name}.txt").read_text(errors="replace")
            self._unexplained.append(f"{name}: status {status}: {log.strip().splitlines()[-1]}")
        return status

    def _wait(self, process: subprocess.Popen[bytes]) -> int | str:
        while (status := self._look(process)) is None:
            time.sleep(0.01)
        return status

    def _mark(self) -> None:
        """Note what is there before nodes are started: they must not do it again."""
        self._look_into_store()
        attempts, journal = self._run_dir / "attempts", self._run_dir / "journal"
        sizes = {path.name: path.stat().st_size for path in journal.glob("*.jsonl")}
        mark = {"attempts": [path.name for path in attempts.glob("[0-9]*")], "journals": sizes}
        number = len(list((self.folder / "marks").iterdir()))
        (self.folder / "marks" / f"{number:03d}.json").write_text(json.dumps(mark))

    def _thaw(self) -> None:
        for process in self._frozen:
            os.kill(process.pid, signal.SIGCONT)
        self._thawed += self._frozen
        self._frozen = []

    def _settle(self) -> None:
        """Let what was frozen go on, wait for all, and sometimes reduce once more."""
        self._thaw()
        for process in self._thawed:
            self._wait(process)
        if self._thawed and self._rng.random() < 0.5:
            self._try("reduce")
        deadline = time.monotonic() + 5
        while checker.processes(self.folder.name) and time.monotonic() < deadline:
            time.sleep(0.02)  # guardians have work to do for a moment after their node

    def _hurt(self, moment: str) -> None:
        when, action = _DAMAGE.get(self.scenario.damage, ("", None))
        if action is None or when != moment or self._done_damage:
            return
        if action(self.folder, self._run_dir, self._rng):
            self._done_damage.append(self.scenario.damage)

    def _make_room(self) -> None:
        """Free the disk after it was found full for the second time, so that it is met in two places."""
        ballast = self._disk / "ballast"
        if ballast.exists():
            self._done_damage.append("disk was full")
            if len(self._done_damage) > 1:
                ballast.unlink()

    def _clean_up(self) -> None:
        for process in [*self._frozen, *self._thawed]:
            process.kill()
            process.wait()
        for text in checker.processes(self.folder.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(text.split()[0]), signal.SIGKILL)
        if self.scenario.disk_bytes is not None:
            subprocess.run(["umount", "--lazy", str(self._disk)], check=True)
        if self._container is not None:
            self._container.remove()


def _is_stopped(pid: int) -> bool:
    try:
        return b") T " in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


def _mount(folder: Path, free: int) -> None:
    """Mount a small disk, and fill it up to so many bytes."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "faults", str(folder)], check=True)
    room = os.statvfs(folder)
    with (folder / "ballast").open("wb") as file:
        file.write(bytes(room.f_bavail * room.f_bsize - free))


def _tear(_folder: Path, run_dir: Path, rng: random.Random) -> bool:
    """Cut off the end of a journal, as a machine does that loses its power."""
    journals = [path for path in (run_dir / "journal").iterdir() if path.read_bytes().count(b"\n") > 1]
    if not journals:
        return False
    path = rng.choice(journals)
    last = len(path.read_bytes().splitlines(keepends=True)[-1])
    os.truncate(path, path.stat().st_size - rng.randint(1, last - 1))
    return True


def _extents(run_dir: Path) -> list[tuple[str, int, int]]:
    """Return where journalled rows are: segment, offset, length."""
    found: list[tuple[str, int, int]] = []
    for path in sorted((run_dir / "journal").iterdir()):
        for line in map(json.loads, path.read_text().splitlines()[1:]):
            if "streak" in line:
                found.append((line["segment"], line["offset"], sum(line["lengths"])))
            else:
                found += [(segment, offset, length) for segment, offset, length, _ in line["extents"]]
    return found


def _flip(_folder: Path, run_dir: Path, rng: random.Random) -> bool:
    """Flip a bit in up to three journalled rows."""
    extents = _extents(run_dir)
    for segment, offset, length in rng.sample(extents, min(len(extents), rng.randint(1, 3))):
        with (run_dir / segment).open("r+b") as file:
            at = offset + rng.randrange(length)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ (1 << rng.randrange(8))]))
    return bool(extents)


def _cut(_folder: Path, run_dir: Path, rng: random.Random) -> bool:
    """Cut a segment within its rows, as a disk does that lied about a flush."""
    extents = _extents(run_dir)
    if not extents:
        return False
    segment, offset, length = rng.choice(extents)
    os.truncate(run_dir / segment, offset + rng.randrange(length))
    return True


def _vanish(folder: Path, _run_dir: Path, rng: random.Random) -> bool:
    victim = rng.choice(sorted((folder / "input").iterdir())[:2])
    victim.unlink()
    return True


def _change(folder: Path, _run_dir: Path, rng: random.Random) -> bool:
    victim = rng.choice(sorted((folder / "input").iterdir())[:2])
    victim.write_text("something else\n")
    return True


_DAMAGE = {
    "tear": ("before reduce", _tear),
    "flip": ("before reduce", _flip),
    "cut": ("before reduce", _cut),
    "vanish": ("before nodes", _vanish),
    "change": ("before nodes", _change),
}
