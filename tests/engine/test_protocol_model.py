# SPDX-License-Identifier: Apache-2.0
"""R1 to R10 against everything that can happen between two operations on the store.

Nodes and reduces of the real engine run over a disk in memory, one operation at a time. Hypothesis chooses
who goes on, who is stopped where and what happens meanwhile, which operation fails or loses its reply, and
when the power goes. ``MODEL_EXAMPLES`` and ``MODEL_SEED`` in the environment make it longer and different.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from memory_store import REFUSED, REPLY_LOST, SAID_TO_EXIST
from protocol_parts import ITEMS_EACH
from protocol_witness import RESULT, ROWS, Witness
from protocol_world import Actor, Task, World

from airflow_parallelrun.engine.node import NodeResult
from airflow_parallelrun.engine.report import JobResult
from airflow_parallelrun.exceptions import (
    InterruptedRunError,
    NothingToAppendError,
    StorageError,
    ThresholdExceededError,
    UnprocessedError,
    VerdictError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import protocol_checker as checker

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "400"))
SEED = os.environ.get("MODEL_SEED")
NODES, REDUCES = 9, 6

NUMBER = st.integers(0, 5)
OUTCOMES = st.sampled_from(["ok", "ok", "ok", "short", "failed"])
# Where it is worth stopping somebody: before this kind of operation, on a name with this in it.
NODE_PLACES = st.sampled_from(
    [
        ("stat", "/rounds/"), ("list", "/attempts"), ("link", "/attempts/"), ("lock", "/attempts/"),
        ("list", "/journal"), ("read", "/journal/"), ("list", "/claims/"), ("link", "/claims/"),
        ("run", ""), ("write", "/segments/"), ("flush", "/segments/"), ("write", "/journal/"),
        ("flush", "/journal/"), ("flush", "/journal"), ("rename", "/control/"), ("link", "abort.json"),
        ("replace", "/ends/"),
    ]
)  # fmt: skip
REDUCE_PLACES = st.sampled_from(
    [
        ("stat", "/rounds/"), ("list", "/journal"), ("flush", "/journal"), ("link", "/rounds/"),
        ("flush", "/rounds/"), ("read", "/rounds/"), ("read", "/journal/"), ("lock", ""),
        ("stat", RESULT), ("unlink", RESULT), ("link", RESULT), ("replace", RESULT),
        ("link", ROWS), ("replace", ROWS), ("unlink", ROWS),
    ]
)  # fmt: skip
# What happens while somebody is stopped there; the last three happen to the operation itself.
MEANWHILE = st.sampled_from(
    [
        "nothing", "killed", "asked to stop", "reduce", "reduce, power cut", "retry", "other threads",
        "everybody else", "power cut", REFUSED, REPLY_LOST, SAID_TO_EXIST,
    ]
)  # fmt: skip


class Protocol(RuleBasedStateMachine):
    """What happens to a run."""

    @initialize(
        chunks=st.lists(st.integers(1, 3), min_size=1, max_size=4),
        nodes=st.integers(1, 3),
        processes=st.sampled_from([1, 1, 2]),
        error_threshold=st.sampled_from([-1, -1, 0, 2]),
        run_max_try=st.sampled_from([1, 2]),
        retry_short_returns=st.booleans(),
        outcomes=st.lists(OUTCOMES, min_size=12, max_size=12),
        end=st.sampled_from(["all are killed", "all go on", "power cut"]),
    )
    def split(
        self, chunks: list[int], nodes: int, processes: int, outcomes: list[str], end: str, **config: int
    ) -> None:
        starts = [sum(chunks[:n]) for n in range(len(chunks))]
        self.witness = Witness()
        self.world = World(starts, sum(chunks), min(nodes, sum(chunks)), self.witness, processes, **config)
        self.world.outcomes = outcomes[: sum(chunks)]
        self.ended: set[Actor] = set()
        self.saw_all: set[Actor] = set()
        self.published = -1
        self.reduces_met = False
        self.power_cuts = self.settled = 0
        self.end = end

    # Who there is.

    @property
    def alive(self) -> list[Actor]:
        return [actor for actor in self.world.actors if not actor.over]

    def _pick(self, number: int) -> Actor:
        alive = self.alive
        return alive[-1 - number % len(alive)]  # the latest first: it has most to do

    def _room_for_a_node(self) -> bool:
        return sum(actor.node is not None for actor in self.world.actors) < NODES

    def _room_for_a_reduce(self) -> bool:
        return sum(actor.node is None for actor in self.world.actors) < REDUCES

    def _start_reduce(self) -> Actor:
        self.reduces_met |= any(actor.node is None for actor in self.alive)
        reduce = self.world.start_reduce()
        if self.witness.all_have_finished():
            self.saw_all.add(reduce)
        return reduce

    # What happens.

    @precondition(_room_for_a_node)
    @rule(index=NUMBER, place=NODE_PLACES, what=MEANWHILE)
    def a_node_starts(self, index: int, place: tuple[str, str], what: str) -> None:
        self._go_on_until(self.world.start_node(index % self.world.plan.node_count), place, what)

    @precondition(_room_for_a_reduce)
    @rule(place=REDUCE_PLACES, what=MEANWHILE)
    def a_reduce_starts(self, place: tuple[str, str], what: str) -> None:
        self._go_on_until(self._start_reduce(), place, what)

    @precondition(lambda self: self.alive)
    @rule(number=NUMBER, of_node=NODE_PLACES, of_reduce=REDUCE_PLACES, what=MEANWHILE)
    def one_goes_on(
        self, number: int, of_node: tuple[str, str], of_reduce: tuple[str, str], what: str
    ) -> None:
        actor = self._pick(number)
        self._go_on_until(actor, of_reduce if actor.node is None else of_node, what)

    @precondition(lambda self: self.alive)
    @rule(number=NUMBER, tasks=st.lists(st.integers(0, 3), min_size=1, max_size=20))
    def one_goes_on_in_some_threads(self, number: int, tasks: list[int]) -> None:
        actor = self._pick(number)
        for task in tasks:
            if runnable := actor.runnable():
                self.world.step(runnable[task % len(runnable)])

    @precondition(lambda self: self.alive)
    @rule(orders=st.lists(NUMBER, max_size=8))
    def all_go_on_to_the_end(self, orders: list[int]) -> None:
        self.world.finish(self.alive, orders)

    @rule(ordinal=st.integers(0, 11), status=OUTCOMES)
    def the_script_changes(self, ordinal: int, status: str) -> None:
        self.world.outcomes[ordinal % len(self.world.outcomes)] = status

    @precondition(lambda self: not self.power_cuts)
    @rule(data=st.data())
    def power_cut(self, data: st.DataObject) -> None:
        self.power_cuts += 1
        self._power_cut(lambda count: data.draw(st.integers(0, count - 1)))

    def _power_cut(self, choose: Callable[[int], int]) -> None:
        self.world.power_cut(choose)
        self.witness.after_power_cut()

    def _go_on_until(self, actor: Actor, place: tuple[str, str], what: str) -> None:
        """Stop somebody at a place; and then something happens."""
        task = self._stopped_at(actor, place)
        if task is None:
            return
        if what in (REFUSED, REPLY_LOST, SAID_TO_EXIST):
            actor.failed = True
            self.world.step(task, what)
        elif what == "killed":
            self.world.kill(actor)
        elif what == "asked to stop" and actor.wakeup:
            actor.wakeup.request_stop()
        elif what == "power cut":  # names stay, but there are holes in the bytes
            self._power_cut(lambda count: count // 2)
        else:
            self._others_go_on(actor, task, what)

    def _others_go_on(self, actor: Actor, stopped: Task, who: str) -> None:
        if who == "other threads":
            for _ in range(20):
                for task in actor.runnable():
                    if task is not stopped and not task.dead:
                        self.world.step(task)
        elif who == "everybody else":
            self.world.finish([other for other in self.alive if other is not actor])
        elif who == "retry" and actor.node is not None and self._room_for_a_node():
            self.world.finish([self.world.start_node(actor.node)])
        elif who.startswith("reduce") and self._room_for_a_reduce():
            self.world.finish([self._start_reduce()])
            if "power cut" in who:  # and nothing stays but what was flushed
                self._power_cut(lambda count: 0)

    def _stopped_at(self, actor: Actor, place: tuple[str, str]) -> Task | None:
        for _ in range(100):
            for task in actor.runnable():
                if not task.dead:
                    self.world.step(task)
                    if task.at[0] == place[0] and place[1] in task.at[1] and not actor.over:
                        return task
        return None

    # What must hold.

    @invariant()
    def seals_stay_and_counts_are_durable(self) -> None:
        if hasattr(self, "witness"):
            self.witness.check_seals()
            self.witness.check_counts()

    @invariant()
    def a_result_stays(self) -> None:
        """What was published stays until there is something newer, however often reduce is repeated.

        Of two reduces that publish at once one may take back what the other has just published, and publish
        the same again.
        """
        if hasattr(self, "witness") and not self.reduces_met:
            self.witness.check_result()
        if hasattr(self, "witness") and self.published == max(self.witness.seals, default=-1) >= 0:
            assert self.world.disk.find(RESULT), "the published result is gone"
            assert json.loads(self.world.disk.content(RESULT))["round"] == self.published

    @invariant()
    def everybody_ends_as_expected(self) -> None:
        for actor in self.world.actors if hasattr(self, "witness") else ():
            if actor.end is not None and actor not in self.ended:
                self.ended.add(actor)
                self._check_end(actor)

    def _check_end(self, actor: Actor) -> None:
        expected: tuple[type, ...] = (NodeResult,) if actor.node is not None else (JobResult, VerdictError)
        in_a_hurry = actor.wakeup is not None and actor.wakeup.stop_requested  # then it waits for no disk
        if actor.failed or in_a_hurry:
            expected += (StorageError,)
        if isinstance(actor.end, InterruptedRunError):
            later = [each for each in self.witness.round_of if each.node == actor.node]
            assert in_a_hurry or (actor.attempt and actor.attempt < max(later)), "stopped for no reason"
            return
        assert isinstance(actor.end, expected), f"{actor.name} ended with {actor.end!r}"
        unfinished = actor in self.saw_all and isinstance(actor.end, UnprocessedError)
        assert not unfinished, f"every node had finished, but {actor.end}"
        if isinstance(actor.end, JobResult) and all(other.node is not None for other in self.alive):
            self.published = actor.end.round

    @precondition(lambda self: not self.settled)
    @rule(frozen=st.sets(NUMBER, max_size=3))
    def settle(self, frozen: set[int]) -> None:
        self.settled += 1
        self._settle([actor for number, actor in enumerate(self.alive) if number in frozen])

    def _settle(self, frozen: list[Actor]) -> None:
        """All are killed but the frozen; each node starts again; then reduce. Then the frozen wake up."""
        for actor in self.alive:
            if actor not in frozen:
                self.world.kill(actor)
        aborted = {
            (actor.attempt.node, self.witness.round_of.get(actor.attempt))
            for actor in self.world.actors
            if actor.attempt and getattr(actor.end, "outcome", "") == "aborted"
        }
        nodes = [self.world.start_node(index) for index in range(self.world.plan.node_count)]
        self.world.finish(nodes)
        self._check_nodes(nodes)
        again = {(actor.node, self.witness.round_of[actor.attempt]) for actor in nodes if actor.attempt}
        assert not aborted & again, "a node goes on in a round in which it was aborted"
        self._reduce_to_the_end()
        if frozen:
            self.world.finish(frozen)
            self._check_last_result()
            self._reduce_to_the_end()

    def _check_last_result(self) -> None:
        """Reduces that were not killed and had no trouble leave the last verdict, whoever ends first."""
        reduces = [actor for actor in self.world.actors if actor.node is None]
        if self.witness.verdicts and all(actor.end is not None and not actor.failed for actor in reduces):
            self.witness.check_last_result()

    def _check_nodes(self, nodes: list[Actor]) -> None:
        """They have done, in the new round, all that was left to do; or stopped, with a reason of today."""
        assert all(isinstance(actor.end, NodeResult) for actor in nodes), [actor.end for actor in nodes]
        rounds = {self.witness.round_of[actor.attempt] for actor in nodes if actor.attempt}
        if len(rounds) == 1 and all(actor.end.outcome == "finished" for actor in nodes):
            assert not self.witness.left_alone(max(rounds))

    def _reduce_to_the_end(self) -> None:
        """A verdict on everything: nothing is left undone unless too much has failed, and it is published."""
        reduce = self._start_reduce()
        self.world.finish([reduce])
        last = max(self.witness.seals)
        told = self.witness.truths[last]
        counts = told.counts
        limit = self.world.plan.config.error_threshold
        assert isinstance(limit, int)
        if 0 <= limit < counts["failed"] * ITEMS_EACH + counts["short"]:
            assert isinstance(reduce.end, ThresholdExceededError)
        else:
            assert not counts["unprocessed"], f"{counts}: {reduce.end!r}"
            expected = JobResult if told.output else NothingToAppendError
            assert isinstance(reduce.end, expected), repr(reduce.end)
        assert json.loads(self.world.disk.content(RESULT))["round"] == last, "a verdict that is not the last"
        assert bool(self.world.disk.find(ROWS)) == isinstance(reduce.end, JobResult)
        if self.world.disk.find(ROWS):
            self._check_rows(self.world.disk.content(ROWS), told)
        self.world.finish([self._start_reduce()])
        assert max(self.witness.seals) == last, "a repeated reduce has sealed another round"

    def _check_rows(self, content: bytes, told: checker.Truth) -> None:
        """Each mini-batch that succeeded is there once, in order, as one call of run() returned it."""
        assert content == told.output
        numbers = dict.fromkeys(int(line.split()[1]) for line in content.splitlines())
        runs = [self.world.runs[number] for number in numbers]
        assert b"".join(run.rows for run in runs) == content
        assert all(run.complete for run in runs)
        expected = [n for n, status in enumerate(told.statuses) if status in ("ok", "short")]
        assert [run.ordinal for run in runs] == expected

    def _end(self) -> None:
        """However it ends: a verdict on everything comes of it."""
        if self.end == "all go on":
            self.world.finish(self.alive)
            self._check_last_result()
            self.world.finish([self._start_reduce()])
        elif self.end == "power cut":
            self._power_cut(lambda count: 0)
        self._settle(self.alive)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if sys.exc_info()[0] is None:
                self._end()
                self.everybody_ends_as_expected()
                self.seals_stay_and_counts_are_durable()
        finally:
            self.world.close()


def test_the_protocol_keeps_its_promises() -> None:
    run = settings(
        max_examples=EXAMPLES,
        stateful_step_count=12,
        deadline=None,
        derandomize=SEED is None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate] if "MODEL_NO_SHRINK" in os.environ else tuple(Phase),
        suppress_health_check=list(HealthCheck),
    )
    machine = seed(int(SEED))(Protocol) if SEED else Protocol
    run_state_machine_as_test(machine, settings=run)
