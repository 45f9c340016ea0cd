# SPDX-License-Identifier: Apache-2.0
"""Nodes and reduces of the real engine on a disk in memory, and one who decides which of them goes on.

What is real: ``Node``, ``Session``, ``Dispatcher``, ``Committer`` with its thread, ``Claims``, ``Control``,
rounds, history, journal, ledger, ``reduce`` with assembly and publication, the store, and the process's
``Segment``. What is not: the operating system under the store, time, threads (each is a greenlet here), the
worker process (a loop in the same order as ``worker/process.py``: page, run, rows, report), logs, guardian.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from greenlet import getcurrent, greenlet
from memory_store import DONE, Disk
from protocol_parts import (
    ITEMS_EACH,
    RUN,
    Claims,
    Condition,
    Nothing,
    PlanItems,
    Process,
    Selector,
    Thread,
    Wakeup,
)
from workbench import make_config, make_plan

from airflow_parallelrun.engine import (
    assembly,
    claims,
    committer,
    dispatcher,
    intake,
    job_report,
    launcher,
    leftovers,
    names,
    node,
    outputs,
    ownership,
    pool,
    report,
    rounds,
    session,
    standing,
    store,
)
from airflow_parallelrun.engine.deaths import NO_STACK
from airflow_parallelrun.engine.reduce import reduce
from airflow_parallelrun.exceptions import ParallelRunError
from airflow_parallelrun.worker import output, page
from airflow_parallelrun.worker import report as worker_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_parallelrun.engine.names import Attempt

OUTPUT = "/out"
# An actor that takes more steps than this on its own hangs.
_STEPS = 20_000


class Killed(BaseException):
    """Raised in what is dead, so that no code of it goes on."""


@dataclass(eq=False)
class Task:
    """A thread of an actor, or a worker process of it.

    :param at: what it is about to do, and where
    """

    actor: Actor
    greenlet: greenlet
    at: tuple[str, str] = ("start", "")
    dead: bool = False
    ready: Callable[[], bool] = field(default=lambda: True)


@dataclass(eq=False)
class Actor:
    """A node's or a reduce's process.

    :param node: the node's index; None for a reduce
    :param failed: whether an operation of it was made to fail
    :param end: what it returned or raised; None while it is alive, and when it was killed
    """

    name: str
    node: int | None
    tasks: list[Task] = field(default_factory=list)
    attempt: Attempt | None = None
    wakeup: Any = None
    end: Any = None
    failed: bool = False
    over: bool = False

    def runnable(self) -> list[Task]:
        """Return the tasks that can go on."""
        return [task for task in self.tasks if not task.dead and task.ready()]


@dataclass
class Run:
    """A call of run(): its number stands in its rows."""

    number: int
    ordinal: int
    attempt: Attempt
    status: str
    rows: bytes = b""
    complete: bool = False


class World:
    """All actors, and the disk.

    :param starts: the first mini-batch of each chunk
    :param watch: told of each name that appears, each chunk that is honoured, each run(), each end
    """

    def __init__(
        self, starts: list[int], mini_batches: int, nodes: int, watch: Any, processes: int, **config: Any
    ) -> None:
        self.watch = watch
        watch.world = self
        self.objection: AssertionError | None = None
        self.actors: list[Actor] = []
        self.runs: dict[int, Run] = {}
        self.outcomes = ["ok"] * mini_batches
        self._reports = itertools.cycle([True, False, False, True, False])
        self.clock = 1_000_000.0
        self._fate = DONE
        self._numbers = itertools.count(1)
        self._tokens = itertools.count(1)
        self._undo = pytest.MonkeyPatch()
        self._main = getcurrent()
        self.disk = Disk(self.pause, lambda path: self.tell(watch.named, path), self._owner)
        self._patch()
        self.plan = make_plan(
            RUN, mini_batches, ITEMS_EACH, chunk_starts=starts, node_count=nodes, output=OUTPUT,
            config=make_config(
                node_count=nodes, process_count_per_node=processes, run_invocation_timeout=10**9, **config
            ),
        )  # fmt: skip
        self.plan.store.put(names.PLAN, self.plan.to_json())
        self.plan.store.put(names.CODE, b"")
        self.disk.flush_all()

    def close(self) -> None:
        """End everything."""
        for actor in self.actors:
            self.kill(actor)
        self._undo.undo()

    def _patch(self) -> None:
        world, disk = self, self.disk
        for module in (
            store,
            committer,
            session,
            ownership,
            outputs,
            assembly,
            job_report,
            leftovers,
            standing,
            output,
        ):
            self._undo.setattr(module, "os", disk)
        for module in (store, outputs):
            self._undo.setattr(module, "open", disk.open_file, raising=False)
        for module in (store, leftovers):
            self._undo.setattr(module, "fcntl", disk)
        # What is random would make two runs of one example differ: a listing is sorted.
        tokens = SimpleNamespace(token_hex=lambda size: f"{next(self._tokens):0{2 * size}x}")
        for module in (store, ownership, rounds):
            self._undo.setattr(module, "secrets", tokens)
        clock = SimpleNamespace(
            monotonic=lambda: self.clock,
            monotonic_ns=lambda: int(self.clock * 1e9),
            time=lambda: self.clock,
            sleep=lambda seconds: self.pause("sleep", ""),
        )
        for module in (claims, committer, session, dispatcher, intake, pool, page, output, worker_report):
            self._undo.setattr(module, "time", clock)
        threads = SimpleNamespace(
            Condition=lambda: Condition(world), Thread=lambda **given: Thread(world, **given)
        )
        self._undo.setattr(committer, "threading", threads)
        self._undo.setattr(node, "Wakeup", lambda: Wakeup(world.current.actor))
        self._undo.setattr(node, "background_log", lambda: contextlib.nullcontext(Nothing()))
        self._undo.setattr(launcher, "Process", lambda *given: Process(world, *given))
        self._undo.setattr(launcher, "worth_importing", lambda plan, code: [])
        for name, value in {
            "PlanItems": PlanItems,
            "Guardian": Nothing,
            "LogForwarder": Nothing,
            "ResourceMonitor": Nothing,
            "unpack": lambda data, folder: None,
            "make_folder": lambda token: "/nowhere",
            "shutil": SimpleNamespace(rmtree=lambda folder, **given: None),
            "remove_leftovers": lambda store, attempt: None,
            "selectors": SimpleNamespace(
                DefaultSelector=lambda: Selector(world),
                EVENT_READ=selectors.EVENT_READ,
                EVENT_WRITE=selectors.EVENT_WRITE,
            ),
        }.items():
            self._undo.setattr(session, name, value)
        # Nothing here may reach a real process.
        self._undo.setattr(pool, "os", SimpleNamespace(path=os.path))
        self._undo.setattr(pool, "guardian", SimpleNamespace(kill_members=lambda *given: 0))
        self._undo.setattr(dispatcher, "last_stack", lambda *given: NO_STACK)
        self._undo.setattr(report, "PlanItems", PlanItems)
        self._undo.setattr(intake, "Claims", lambda *given: Claims(world, *given))

    # Who goes on.

    @property
    def current(self) -> Task:
        """The task that runs now."""
        return getcurrent().task  # type: ignore[no-any-return]

    def pause(self, what: str, where: str, ready: Callable[[], bool] = lambda: True) -> str:
        """Let others go on; called by the tasks themselves."""
        if getcurrent() is self._main:
            return DONE
        task = self.current
        if task.dead:
            raise Killed
        if what:
            task.at, task.ready = (what, where), ready
            self._main.switch()
            if task.dead:
                raise Killed
            return self._fate
        return DONE

    def spawn(self, actor: Actor, work: Callable[[], Any]) -> Task:
        """Add a task to an actor; it starts at its first step."""
        thread = greenlet(work, parent=self._main)
        thread.task = task = Task(actor, thread)
        actor.tasks.append(task)
        return task

    def _owner(self) -> Actor | None:
        return None if getcurrent() is self._main else self.current.actor

    def step(self, task: Task, fate: str = DONE) -> None:
        """Let a task go on until it is about to do something that others could notice."""
        self._fate = fate
        task.greenlet.switch()
        if self.objection:
            raise self.objection
        if task.greenlet.dead:
            task.dead = True
        if task.actor.over or task.dead:
            task.actor.tasks = [each for each in task.actor.tasks if not each.dead]
        if task.actor.over:
            self.kill(task.actor)

    def kill(self, actor: Actor) -> None:
        """End a process as SIGKILL does, its threads and workers with it."""
        for task in actor.tasks:
            task.dead = True
            with contextlib.suppress(Killed):
                task.greenlet.throw(Killed)
        actor.tasks.clear()
        actor.over = True
        self.disk.close_all(actor)

    def power_cut(self, choose: Callable[[int], int]) -> None:
        """End everything, and lose what was not flushed."""
        for actor in self.actors:
            self.kill(actor)
        self.disk.power_cut(choose)

    def finish(self, actors: list[Actor], orders: Iterable[int] = ()) -> None:
        """Let actors go on in turns to their end.

        :param orders: how many of them have to sit out the first turns
        """
        waiting = iter(orders)
        for _ in range(_STEPS):
            alive = [actor for actor in actors if not actor.over]
            if not alive:
                return
            for actor in alive[next(waiting, 0) % len(alive) :]:
                for task in actor.runnable():
                    if not task.dead:
                        self.step(task)
        hanging = [(actor.name, [task.at for task in actor.tasks]) for actor in alive]
        raise AssertionError(f"these do not come to an end: {hanging}")

    # Who there is.

    def start_node(self, index: int) -> Actor:
        """Start a node's process."""
        actor = Actor(f"node {index}, process {len(self.actors)}", index)
        return self._start(actor, lambda: node.Node(RUN, index).run())

    def start_reduce(self) -> Actor:
        """Start a reduce."""
        return self._start(Actor(f"reduce, process {len(self.actors)}", None), lambda: reduce(RUN))

    def _start(self, actor: Actor, work: Callable[[], Any]) -> Actor:
        def main() -> None:
            try:
                actor.end = work()
            except ParallelRunError as error:
                actor.end = error
            actor.over = True
            self.tell(self.watch.ended, actor)

        self.actors.append(actor)
        self.spawn(actor, main)
        return actor

    def tell(self, listener: Callable[..., None], *what: Any) -> None:
        """Tell the watch; what it objects to reaches the test whatever the engine does with the exception."""
        if getcurrent() is self._main:
            return
        try:
            listener(*what)
        except AssertionError as error:
            self.objection = error
            raise

    def reports_now(self) -> bool:
        """Tell whether a worker's time to report has come; it always comes when nothing is left to run."""
        return next(self._reports)

    def begin_run(self, attempt: Attempt, ordinal: int) -> Run:
        """Call run() for a mini-batch."""
        run = Run(next(self._numbers), ordinal, attempt, self.outcomes[ordinal])
        self.runs[run.number] = run
        self.tell(self.watch.run, run)
        return run
