# SPDX-License-Identifier: Apache-2.0
"""A node's session: its loop over claims, processes, results and deadlines.

One thread dispatches; one commits; one shows the script's logs, one writes the node's own, one shows the
progress, and one samples what is used of the machine. Only the dispatch thread talks to the processes, and it
waits for none of the others.
"""

from __future__ import annotations

import logging
import os
import selectors
import shutil
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from airflow_parallelrun.engine.committer import Committer
from airflow_parallelrun.engine.control import Control
from airflow_parallelrun.engine.dispatcher import Dispatcher
from airflow_parallelrun.engine.finished import Finished, Tally
from airflow_parallelrun.engine.guarding import Guardian
from airflow_parallelrun.engine.history import read_history
from airflow_parallelrun.engine.intake import Intake
from airflow_parallelrun.engine.journals import open_journal
from airflow_parallelrun.engine.judge import Judge
from airflow_parallelrun.engine.launcher import Launcher
from airflow_parallelrun.engine.leftovers import make_folder, remove_leftovers
from airflow_parallelrun.engine.log_forwarder import LogForwarder
from airflow_parallelrun.engine.long_runs import LongRuns
from airflow_parallelrun.engine.plan import Plan, PlanItems
from airflow_parallelrun.engine.pool import Process, end_all
from airflow_parallelrun.engine.progress import Progress
from airflow_parallelrun.engine.provisions import Provisions
from airflow_parallelrun.engine.questions import Questions
from airflow_parallelrun.engine.resources import ResourceMonitor
from airflow_parallelrun.engine.rounds import end_attempt
from airflow_parallelrun.engine.snapshot import unpack
from airflow_parallelrun.engine.staging import NoStaging, Staging, spool_folder, staged_inputs
from airflow_parallelrun.engine.workplace import Workplace
from airflow_parallelrun.exceptions import EntryScriptInitError, InterruptedRunError, StorageError

if TYPE_CHECKING:
    from airflow_parallelrun.engine.control import Sighting
    from airflow_parallelrun.engine.rounds import Started
    from airflow_parallelrun.engine.wakeup import Wakeup

logger = logging.getLogger(__name__)

# A node claims ahead what it needs for as long as so many claims take. What it has claimed no other can do,
# and the next mini-batches may take much longer than the last ones did.
CLAIMS_AHEAD = 20
# More than this is no faster.
QUEUE_LIMIT = 10_000
# Of the plan so many mini-batches are read at once to stage them.
_STAGED_AHEAD = 256
# Local listings are cheap; every node sees a breach or a newer attempt of itself within this time.
CONTROL_INTERVAL_S = 2.0
# In an object store a look takes some requests, for which the dispatch thread waits.
OBJECTS_INTERVAL_S = 5.0
# Deadlines are whole seconds; looking at all pages this often costs nothing and is late by no more.
DEADLINE_INTERVAL_S = 0.25
# As the original: so many processes may fail in init() for each that should run.
INIT_FAILURES_PER_PROCESS = 3
# Time for results that are on their way when the node is asked to stop.
GRACE_S = 0.2
# A disk may take so long to make the last results durable: Airflow kills the task 5 s after its request.
STOP_FLUSH_S = 2.0
# And whoever reads the log so long to take the rest.
STOP_LOG_S = 0.5


class Session:
    """What a node holds while it runs.

    :param plan: the plan
    :param started: this start of the node
    :param wakeup: wakes the dispatch thread, and carries the request to stop
    :param logs: the folder of the logs on this machine
    """

    def __init__(self, plan: Plan, started: Started, wakeup: Wakeup, logs: str) -> None:
        self._plan = plan
        self._wakeup = wakeup
        self._started_at = time.monotonic()
        self._store = plan.store
        self._started = started
        self._history = read_history(plan, self._started)
        self._tally = self._history.tally
        self._own = Tally()
        self._state = "starting"
        self._superseded = False
        self.outcome, self.message = "finished", ""
        with ExitStack() as opened:
            self._make_parts(opened, logs)
            self._open(opened)
            self._opened = opened.pop_all()

    def _make_parts(self, opened: ExitStack, logs: str) -> None:
        plan, started, wakeup = self._plan, self._started, self._wakeup
        folder = make_folder(started.token)
        opened.callback(shutil.rmtree, folder, ignore_errors=True)
        self._place = Workplace.of(plan, folder, logs)
        spool = spool_folder(self._place.folder) if staged_inputs(plan) else None
        self._items = PlanItems(plan, files=self._place.item_files, spool=spool)
        self._staging = NoStaging()
        self._intake = Intake(plan, self._started, self._history, self._items)
        self._control = Control(self._store, self._started)
        self._questions = Questions(plan, wakeup.wake)
        self._provisions = Provisions(plan, self._place.folder, wakeup.wake)
        self._long_runs = announce = None
        if not self._store.is_local:
            self._long_runs = LongRuns(self._store, started.attempt, bool(self._history.lost))
            announce = self._long_runs.announce
        self._dispatcher = Dispatcher(plan, self._items, self._questions.ask, announce)
        self._process_limit = plan.config.processes_per_node
        self._next_look = self._next_deadlines = 0.0
        self._others: Sighting | None = None
        self._judge = Judge(plan, self._dispatcher)
        self._finished = 0

    def _open(self, opened: ExitStack) -> None:
        attempt = self._started.attempt
        opened.callback(self._items.close)
        self._selector = opened.enter_context(selectors.DefaultSelector())
        self._selector.register(self._wakeup, selectors.EVENT_READ, None)
        remove_leftovers(self._store, attempt)
        place = self._place
        # So that the next attempt can tell whose processes these are.
        self._tag = self._started.token
        self._guardian = Guardian(self._tag, place.folder)
        opened.callback(self._guardian.close)
        place.fetch_items(self._plan)
        try:
            if place.is_output_local:
                os.makedirs(place.output)
            unpack(self._store.read(self._plan.code), place.code)
        except OSError as error:
            raise StorageError(place.folder, error.strerror or str(error)) from error
        opened.callback(self._questions.close)
        opened.callback(self._provisions.close)
        plan = self._provisions.plan
        self._launcher = Launcher(plan, self._started, place, self._selector, self._guardian)
        opened.callback(self._launcher.close)
        self._launcher.prepare()
        self._logs = LogForwarder(self._plan.config.logging_level)
        opened.callback(lambda: self._logs.close(STOP_LOG_S if self._wakeup.stop_requested else None))
        self._resources = ResourceMonitor(self._plan, attempt, place.folder, place.logs)
        opened.callback(self._resources.close)
        journal = open_journal(self._plan, self._started, place)
        opened.callback(journal.close)
        self._committer = Committer(journal, self._wakeup.wake)
        opened.callback(self._committer.close)
        if staged_inputs(self._plan):
            self._staging = self._open_staging(opened)
        logger.info(
            "node %s of %d, round %d: up to %d processes, %d mini-batches in all, %d done here before; "
            "run directory %s",
            attempt,
            self._plan.node_count,
            self._started.round,
            self._process_limit,
            self._history.total,
            self._tally.done,
            self._plan.run_dir,
        )

    def _open_staging(self, opened: ExitStack) -> Staging:
        items = PlanItems(self._plan, _STAGED_AHEAD, self._place.item_files)
        opened.callback(items.close)
        staging = Staging(self._plan, items, self._place.folder, self._wakeup.wake)
        opened.callback(staging.close)
        return staging

    @property
    def _outstanding(self) -> int:
        """Mini-batches that this node has and did not finish."""
        return self._dispatcher.outstanding + self._staging.pending

    def work(self) -> None:
        """Run the dispatch loop to its end."""
        dispatcher = self._dispatcher
        self._claim()
        while self._outstanding or self._intake.free:
            self._start_processes()
            if not self._committer.is_behind:
                dispatcher.feed(last=not (self._intake.free or self._staging.pending))
            self._wait()
            self._look()
            self._collect()
            self._keep_limits()
            if self.outcome == "aborted":
                break
            self._claim()
        else:
            self._end_processes()
        self._committer.flush()
        self._collect()
        self._meet()
        self._state = self.outcome
        if not self.message:
            self.message = f"{self._own.done} mini-batches done"
        logger.info("node %s %s: %s", self._started.attempt, self.outcome, self.message)

    def close(self, outcome: str, message: str) -> None:
        """End everything that was started; commit what is complete, if that is still possible and useful."""
        self._state = outcome
        if outcome in ("interrupted", "failed"):
            logger.info("node %s %s: %s", self._started.attempt, outcome, message)
        self._resources.close()  # while the processes are there
        end_all(self._dispatcher.processes, self._tag)
        self._dispatcher.processes.clear()
        with self._opened:
            if not self._superseded:
                self._commit(hurry=True)
                self._committer.flush(STOP_FLUSH_S if self._wakeup.stop_requested else None)
            end_attempt(
                self._store,
                self._started,
                message,
                self.progress(),
                run_seconds=round(self._own.run_seconds, 3),
                processes_started=self._launcher.count,
            )

    def progress(self) -> Progress:
        """Return the progress; called from any thread."""
        ready = self._dispatcher.first_ready
        return Progress(
            node=self._started.attempt.node,
            attempt=self._started.attempt.k,
            state=self._state,
            mini_batches_total=self._history.total,
            mini_batches_done=self._tally.done,
            mini_batches_failed=self._tally.failed + self._tally.short,
            items_done=self._tally.items,
            items_failed=self._tally.items_failed,
            seconds=round(time.monotonic() - self._started_at, 3),
            processes=len(self._dispatcher.processes),
            first_init_s=round(ready - self._started_at, 3) if ready else None,
            mini_batches_before=self._tally.done - self._own.done,
        )

    def _claim(self) -> None:
        """Claim chunks until the queue has what the processes need soon, or will have once it is staged."""
        self._take_staged()
        while self._dispatcher.queued + self._staging.pending < self._wanted():
            taken = self._intake.next()
            if taken is None:
                return
            self._staging.add(taken.portions, taken.partial)
            self._committer.add(map(Finished.of, taken.poison))
            self._take_staged()

    def _take_staged(self) -> None:
        staged = self._staging.take()
        self._dispatcher.add(staged.portions)
        for line in staged.partial:
            self._dispatcher.go_on(line, self._intake.is_suspect(line.ordinal))

    def _wanted(self) -> int:
        """Return how many mini-batches should wait in the queue.

        It is what the processes could take now or need in the next time, but of what nobody has claimed
        no more than leaves as much for every other node, several times over; and one for each idle process.
        """
        dispatcher, plan = self._dispatcher, self._plan
        left = self._intake.free * plan.mini_batches / len(plan.chunk_starts)
        share = int(left / (4 * plan.node_count)) if plan.node_count > 1 else int(left)
        wanted = dispatcher.capacity()
        elapsed = time.monotonic() - (dispatcher.first_ready or time.monotonic())
        rate = self._own.done / elapsed if elapsed > 1 else 0.0
        ahead_s = CLAIMS_AHEAD * self._intake.claim_seconds
        wanted = max(wanted, min(QUEUE_LIMIT, int(rate * ahead_s)), self._staging.ahead(rate))
        not_started = self._process_limit - len(dispatcher.processes)
        return max(not_started + dispatcher.idle, min(wanted, share))

    def _start_processes(self) -> None:
        dispatcher = self._dispatcher
        unclaimed = self._intake.free
        if not self._provisions.ready() or self._launcher.is_preparing:
            return
        if dispatcher.fruitless >= INIT_FAILURES_PER_PROCESS * self._process_limit:
            if any(process.ready for process in dispatcher.processes):
                return  # what it gets done decides whether others are worth another start
            failure = dispatcher.last_failure
            assert failure is not None
            raise EntryScriptInitError(self._started.attempt.node, dispatcher.fruitless, *failure)
        wanted = min(self._process_limit, self._outstanding + unclaimed)
        while len(dispatcher.processes) < wanted:
            process = self._launcher.start()
            self._guardian.watch(process.pid)
            dispatcher.processes.append(process)
            self._selector.register(process.channel, selectors.EVENT_READ, process)
            self._logs.follow(process)
            self._resources.follow(process)

    def _wait(self) -> None:
        for process in self._dispatcher.processes:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if process.wants_to_send else 0)
            if self._selector.get_key(process.channel).events != events:
                self._selector.modify(process.channel, events, process)
        for key, events in self._selector.select(DEADLINE_INTERVAL_S):
            process = key.data
            if process is None:
                self._wakeup.clear()
                continue
            if process is self._launcher:
                process.hear()
                continue
            if events & selectors.EVENT_WRITE:
                process.send_rest()
            if events & selectors.EVENT_READ and not self._dispatcher.receive(process):
                self._bury(process)
        self._questions.deliver()
        self._state = "running" if self._dispatcher.first_ready else self._state
        if self._wakeup.stop_requested:
            self._interrupt()

    def _bury(self, process: Process) -> None:
        self._selector.unregister(process.channel)
        self._logs.leave(process)
        self._dispatcher.bury(process)
        self._resources.leave(process)
        self._guardian.release(process.pid)

    def _check_processes(self) -> None:
        """Kill what is over its limit; and find the dead whose socket a child of theirs keeps open."""
        self._dispatcher.check_deadlines()
        if self._long_runs is not None:
            self._long_runs.look(self._dispatcher.processes)
        for process in list(self._dispatcher.processes):
            if process.has_ended():
                while process.has_spoken() and self._dispatcher.receive(process):
                    continue
                self._bury(process)

    def _collect(self) -> None:
        """Hand finished mini-batches to the committer, and count those that it has committed."""
        self._commit(hurry=not self._outstanding)
        self._count()
        self._committer.check()

    def _count(self) -> None:
        committed = self._committer.committed
        while committed:
            tally = committed.popleft().tally
            self._tally.add(tally)
            self._own.add(tally)

    def _commit(self, hurry: bool) -> None:
        if finished := self._dispatcher.take_finished():
            self._committer.add(finished, hurry)
            self._staging.release(finished)
            self._finished += sum(each.tally.done for each in finished)

    def _look(self) -> None:
        """Look at others, every so often, and before this node commits, charges or claims any more."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + (CONTROL_INTERVAL_S if self._store.is_local else OBJECTS_INTERVAL_S)
        self._others = seen = self._meet()
        self._intake.look()
        self._guardian.look()
        if seen.aborted:
            self._abort()

    def _meet(self) -> Sighting:
        """See the other attempts, and show them this one's counts.

        In this order: a node that was frozen may have a successor, which does again, and counts, what this
        one had not committed when it started.

        :raises InterruptedRunError: when there is a newer attempt of this node
        """
        seen = self._control.look()
        if seen.superseded:
            self._superseded = True
            self._count()
            raise self._interrupted("was started again elsewhere, and this attempt has stopped")
        self._control.publish(self._own.failures, self._own.done, self._dispatcher.init_failures)
        return seen

    def _keep_limits(self) -> None:
        """Judge the processes by their deadlines, and the round by its thresholds."""
        now = time.monotonic()
        if now >= self._next_deadlines:
            self._check_processes()
            self._next_deadlines = now + DEADLINE_INTERVAL_S
        if self._others is None or self.outcome == "aborted":
            return
        reasons = self._judge.reasons(self._own.failures, self._others, self._finished, self._staging.pending)
        if reasons:
            self._control.propose_abort(reasons)
            self._abort()

    def _abort(self) -> None:
        self.outcome = "aborted"
        self.message = "; ".join(self._control.abort_reasons())

    def _interrupt(self) -> None:
        self._state = "stopping"
        self._meet()
        deadline = time.monotonic() + GRACE_S
        for process in self._dispatcher.processes:
            while (left := deadline - time.monotonic()) > 0 and process.in_flight:
                if not process.has_spoken(left) or not self._dispatcher.receive(process):
                    break
        self._commit(hurry=True)
        self._committer.flush(STOP_FLUSH_S)
        self._collect()
        raise self._interrupted(f"{self._wakeup.stop_reason} and has stopped")

    def _interrupted(self, why: str) -> InterruptedRunError:
        node, tally = self._started.attempt.node, self._tally
        return InterruptedRunError(node, why, tally.done, self._history.total, self._superseded)

    def _end_processes(self) -> None:
        """Have every process call shutdown() and leave."""
        self._state = "stopping"
        for process in self._dispatcher.processes:
            if process.ready:
                process.stop()
            else:  # nothing is left for it to get ready for
                process.bye = True
                process.kill()
        while self._dispatcher.processes:
            self._wait()
            self._check_processes()
        self._commit(hurry=True)
