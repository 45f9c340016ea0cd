# SPDX-License-Identifier: Apache-2.0
"""The dispatcher: which process gets which mini-batch, and what a result or a death means.

It runs in the node's one dispatch thread. A small window of mini-batches waits in front of each process,
so that short ones do not wait for the node; what waits behind a slow one is taken back when others are idle.
"""

from __future__ import annotations

import logging
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_parallelrun.engine.deaths import NO_STACK, Stack, describe_exit, last_stack
from airflow_parallelrun.engine.finished import Finished, Tally
from airflow_parallelrun.engine.journal import Streak, parse
from airflow_parallelrun.engine.pool import Failure, Process
from airflow_parallelrun.engine.tries import Tries, error_line, line_of
from airflow_parallelrun.exceptions import EntryScriptContractError, StorageError
from airflow_parallelrun.worker import page, protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_parallelrun.engine.journal import Line
    from airflow_parallelrun.engine.plan import Plan, PlanItems
    from airflow_parallelrun.engine.portions import Portion

    Reply = Callable[[bool, Any], None]
    Ask = Callable[[str, dict[str, Any], Reply], bool]

logger = logging.getLogger(__name__)

# Some 20 ms of work hide the way to the node and back. Measured: more than 1,024 no-ops are no faster.
WINDOW_S = 0.02
WINDOW = 1024
# And one at least, unless they take longer than this: where all cores are busy the way takes 2 ms.
SPARE_S = 1.0

# Time for a process that is over its limit to write its stack before it is killed.
STACK_S = 0.2

# Signals after which faulthandler has written a stack.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})

# Of a traceback that is shown in a message.
TRACEBACK_END = 2000


class _Deadline(NamedTuple):
    kind: str
    limit_s: int
    name: str
    what: str


class _Doom(NamedTuple):
    state: page.PageState
    error: tuple[str, str]  # kind and message
    kill_ns: int


class Dispatcher:
    """The mini-batches and processes of one node.

    :param plan: the plan
    :param items: the plan's items
    :param ask: takes a worker's question: its subject, its arguments, and what to call with the answer; tells
        whether it has done so already
    :param before_alone: called before a mini-batch runs alone, with the process that is to run it
    """

    def __init__(
        self,
        plan: Plan,
        items: PlanItems,
        ask: Ask,
        before_alone: Callable[[Process, Portion], None] | None = None,
    ) -> None:
        config = plan.config
        self._plan = plan
        self._items = items
        self._ask = ask
        self._before_alone = before_alone
        overhead = "OverheadTimeout", config.task_overhead_timeout, "task_overhead_timeout"
        self._deadlines = {
            page.INIT: _Deadline("InitTimeout", config.init_timeout_s, "init_timeout", "init()"),
            page.LOAD: _Deadline(*overhead, "loading the mini-batch"),
            page.RUN: _Deadline(
                "RunInvocationTimeout", config.run_invocation_timeout, "run_invocation_timeout", "run()"
            ),
            page.WRITE: _Deadline(*overhead, "writing the rows"),
            page.SHUTDOWN: _Deadline(
                "ShutdownTimeout", config.shutdown_timeout, "shutdown_timeout", "shutdown()"
            ),
        }
        self._tries = Tries(config)
        self._queue = self._tries.queue
        self._doomed: dict[int, _Doom] = {}
        self.processes: list[Process] = []
        # Processes in a row that died before they got anything done; and the last one's story.
        self.fruitless = 0
        self.last_failure: Failure | None = None
        self.first_ready: float | None = None

    @property
    def queued(self) -> int:
        """Mini-batches that no process has."""
        return len(self._queue)

    @property
    def outstanding(self) -> int:
        """Mini-batches that are not finished."""
        return len(self._queue) + sum(len(process.in_flight) for process in self.processes)

    @property
    def idle(self) -> int:
        """Processes that have nothing to do, and those that are still starting."""
        return sum(not process.in_flight for process in self.processes)

    @property
    def init_failures(self) -> int:
        """Processes in a row that died before they got anything done; 0 as long as another one works."""
        return 0 if any(process.ready for process in self.processes) else self.fruitless

    def capacity(self) -> int:
        """Return how many mini-batches the processes could take now; one for each that is still starting."""
        return sum(max(0, self._window(process) - len(process.in_flight)) for process in self.processes)

    def add(self, portions: Iterable[Portion]) -> None:
        """Queue new mini-batches."""
        self._queue.add(portions)

    def go_on(self, line: Line, alone: bool = False) -> None:
        """Queue what has not succeeded of a mini-batch that was bisected; see :meth:`Tries.go_on`."""
        self._tries.go_on(line, alone)

    def take_finished(self) -> list[Finished]:
        """Return what has been finished since the last call."""
        finished, self._tries.finished = self._tries.finished, []
        return finished

    def feed(self, last: bool) -> None:
        """Fill the windows.

        :param last: whether the queue is all that is left, so that it must be shared out evenly
        """
        ready = [
            process
            for process in self.processes
            if process.ready and not process.stopping and not self._is_doomed(process)
        ]
        if self._queue.alone or any(process.in_flight.alone for process in self.processes):
            self._feed_alone(ready)
            return
        for process in ready:
            window = self._window(process)
            if last:
                window = min(window, max(1, len(self._queue) // (2 * len(ready))))
            if self._queue and len(process.in_flight) <= window // 2 and not process.is_slow(WINDOW_S):
                process.feed(self._queue.take(window - len(process.in_flight)))
        if last and not self._queue and any(not process.in_flight for process in ready):
            for process in ready:
                self._queue.add(process.revoke())

    def _feed_alone(self, ready: list[Process]) -> None:
        """Run what is to run alone, as soon as nothing else runs."""
        for process in ready:
            self._queue.add(process.revoke(), first=True)
        if ready and self._queue.alone and not any(process.in_flight for process in self.processes):
            portions = self._queue.take(1)
            if self._before_alone is not None:
                self._before_alone(ready[0], portions[0])
            ready[0].feed(portions)

    def receive(self, process: Process) -> bool:
        """Take a process's messages.

        :return: False when the process is gone; :meth:`bury` comes next
        :raises EntryScriptContractError: when the script cannot be used
        :raises StorageError: when the process could not write its rows, or read its items
        """
        messages = process.receive()
        if messages is None:
            return False
        for kind, *values in messages:
            if kind == "streak":
                self._streak(process, *values)
            elif kind == "result":
                self._result(process, protocol.Result(*values))
            elif kind == "ask":
                self._take_question(process, *values)
            elif kind == "ready":
                self._ready(process, values[0])
            else:
                self._rare(process, kind, *values)
        return True

    def bury(self, process: Process) -> None:
        """Account for a process that is gone: the mini-batch that it ran is charged, the others go back."""
        ended = process.wait()
        doomed = self._doomed.pop(process.number, None)
        state = doomed.state if doomed else process.page.last()
        error = doomed.error if doomed else ("ProcessDied", describe_exit(ended))
        stack = NO_STACK
        if doomed or -ended.status in _CRASHES:
            stack = last_stack(process.files.stderr, process.code)
        self.processes.remove(process)
        process.close()
        running = None
        if state.phase in (page.LOAD, page.RUN, page.WRITE):
            running = process.in_flight.take(state.feed)
        self._queue.add(process.in_flight.take_behind(-1), first=True)
        if process.bye:
            return
        if running:
            self._charge(process, running[0], state, error, stack)
        else:
            self.fruitless += 1
            self.last_failure = process.init_failure or Failure(error[1], stack.text, process.logs.stderr)
            where = "idle," if process.ready else "init() failed,"
            logger.warning("%s: %s %s", process.name, where, self.last_failure.text)

    def check_deadlines(self) -> None:
        """Kill the processes that are over the limit of the phase they are in, once they have said where."""
        now = time.monotonic_ns()
        for process in self.processes:
            state = process.page.read()
            doomed = self._doomed.get(process.number)
            if doomed is not None and now >= doomed.kill_ns:
                process.kill()
            elif doomed is None and state is not None:
                self._judge(process, state, now)

    def _take_question(self, process: Process, subject: str, arguments: dict[str, Any]) -> None:
        def reply(ok: bool, value: Any) -> None:
            if process not in self.processes:
                return
            if process.waits:
                process.waits, process.answered_ns = False, time.monotonic_ns()
            process.answer(ok, value)

        process.waits = not self._ask(subject, arguments, reply)

    def _judge(self, process: Process, state: page.PageState, now: int) -> None:
        deadline = self._deadlines.get(state.phase)
        # What the node fetches for a process is no time of the script's.
        since = max(state.start_ns, process.answered_ns)
        if deadline is not None and not process.waits and now - since > deadline.limit_s * 1e9:
            message = f"{deadline.what} took longer than {deadline.limit_s} s ({deadline.name})"
            self._doomed[process.number] = _Doom(state, (deadline.kind, message), now + int(STACK_S * 1e9))
            process.dump_stack()

    def _is_doomed(self, process: Process, feed: int | None = None) -> bool:
        doomed = self._doomed.get(process.number)
        return doomed is not None and feed in (None, doomed.state.feed)

    def _charge(
        self,
        process: Process,
        portion: Portion,
        state: page.PageState,
        error: tuple[str, str],
        stack: Stack,
    ) -> None:
        """Count a try of the mini-batch during which its process died."""
        kind, message = error
        logger.warning(
            "%s: %s in mini-batch %d, try %d", process.name, message, portion.ordinal, portion.tries
        )
        self.fruitless = 0
        result = protocol.Result(
            feed=state.feed,
            ordinal=portion.ordinal,
            status=protocol.FAILED,
            items_in=portion.items or self._items.count(portion.ordinal),
            items_ok=0,
            rows_out=0,
            offset=0,
            length=0,
            crc32=0,
            seconds=(time.monotonic_ns() - state.start_ns) / 1e9,
            cpu_seconds=0.0,
            error={
                "type": kind,
                "message": message,
                "frame": stack.frame,
                "traceback": stack.text,
                "log": process.logs.stderr,
            },
        )
        self._tries.take(portion, line_of(portion, result, process.name, process.segment))

    def _window(self, process: Process) -> int:
        mean = process.seconds_mean
        if mean is None or mean > SPARE_S:
            return 1
        return max(2, min(WINDOW, int(WINDOW_S / max(mean, 1e-9))))

    def _ready(self, process: Process, seconds: float) -> None:
        process.ready = True
        if self.first_ready is None:
            self.first_ready = time.monotonic()
        logger.info("%s is ready, init() and imports took %.2f s", process.name, seconds)

    def _rare(self, process: Process, kind: str, *values: Any) -> None:
        if kind == "init_failed":
            (error,) = values
            end = error["traceback"][-TRACEBACK_END:]
            process.init_failure = Failure(error_line(error), end, process.logs.error)
        elif kind == "contract":
            raise EntryScriptContractError(self._plan.entry_script, *values)
        elif kind == "fault":
            name, message = values
            raise StorageError(self._plan.store.path(name), message)
        elif kind == "bye":
            process.bye = True
        elif kind != "hello" or values != (protocol.VERSION,):
            raise RuntimeError(f"{process.name} speaks another protocol: {kind} {values}")

    def _streak(
        self,
        process: Process,
        feed: int,
        count: int,
        items: int,
        run_seconds: float,
        seconds: float,
        row_bytes: int,
        line: bytes,
    ) -> None:
        """Take neighbours that succeeded in full at their first try; see ``worker/protocol.py``."""
        finished = self._tries.finished
        if process.number not in self._doomed and process.in_flight.take(feed, count):
            tally = Tally(done=count, items=items, run_seconds=run_seconds)
            segments = frozenset([process.segment] if row_bytes else [])
            finished.append(Finished(line, tally, segments, row_bytes))
        else:
            streak = parse(line)
            assert isinstance(streak, Streak)
            # Those that were taken back and run all the same, and what was late: the signal that asked for
            # the stack may have cut a call of the script short.
            without = [
                ordinal
                for each, ordinal in enumerate(streak.ordinals, feed)
                if self._is_doomed(process, each) or not process.in_flight.take(each)
            ]
            if len(without) < count:
                finished.append(Finished.of(streak._replace(without=without)))
        self.fruitless = 0
        self._took(process, seconds / count, count)

    def _result(self, process: Process, result: protocol.Result) -> None:
        if self._is_doomed(process, result.feed):
            return  # late, as above
        portions = process.in_flight.take(result.feed)
        if not portions:
            return  # taken back, and run all the same: another process has it now, these rows do not count
        (portion,) = portions
        if result.status == protocol.SKIPPED:
            self._queue.add([portion], first=True)
            return
        self.fruitless = 0
        self._took(process, result.seconds)
        if result.error is not None:
            logs = process.logs
            result.error["log"] = logs.error if result.error["traceback"] else logs.stdout
        self._tries.take(portion, line_of(portion, result, process.name, process.segment))

    def _took(self, process: Process, seconds: float, count: int = 1) -> None:
        """Learn how long a mini-batch takes in a process.

        :param seconds: one of them
        :param count: how many did
        """
        mean, old = process.seconds_mean, 0.8**count
        process.seconds_mean = seconds if mean is None else old * mean + (1 - old) * seconds
