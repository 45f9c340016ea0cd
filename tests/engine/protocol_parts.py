# SPDX-License-Identifier: Apache-2.0
"""What stands in a :class:`World` for the parts of the engine that are not of the protocol.

Threads and worker processes are tasks of their actor; each ``pause`` lets others go on.
"""

from __future__ import annotations

import selectors
import threading
import zlib
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from memory_store import File

from airflow_parallelrun.engine import claims, names, pool
from airflow_parallelrun.engine.deaths import Exit
from airflow_parallelrun.worker import output, page, protocol, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol_world import Actor, Task, World

    from airflow_parallelrun.engine.names import Attempt

RUN = "/run"
# No process of any system has it.
NO_PID = 1 << 30
ITEMS_EACH = 2
# Model seconds that pass while a node waits for something; it looks around every second time.
_WAIT_S = 1.0
_ERROR = {"message": "broken", "frame": None, "traceback": "", "log": ""}


class Nothing:
    """Takes the place of what has no part in the protocol."""

    def __init__(self, *given: Any) -> None:
        return

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *given: None


class Condition:
    """``threading.Condition``: nobody else runs but at a pause, so the lock is always free."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> None:
        return

    def __exit__(self, *error: object) -> None:
        return

    def notify_all(self) -> None:
        return

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """With a time-out it may pass at any time, without one when what it waits for is so."""
        if not predicate():
            timed = timeout is not None
            self._world.pause("wait", "", lambda: timed or bool(predicate()))
            self._world.clock += timeout or 0.0
        return predicate()


class Thread:
    """``threading.Thread``."""

    def __init__(self, world: World, target: Callable[[], None], **_: Any) -> None:
        self._world = world
        self._target = target

    def start(self) -> None:
        self._task = self._world.spawn(self._world.current.actor, self._target)

    def join(self) -> None:
        self._world.pause("wait", "", lambda: self._task.dead)


class Wakeup:
    """``engine.wakeup.Wakeup`` without a pipe."""

    def __init__(self, actor: Actor) -> None:
        self.stop_requested = False
        actor.wakeup = self

    def request_stop(self) -> None:
        self.stop_requested = True

    stop_reason = "was asked to stop"

    def _nothing(self) -> None:
        return

    wake = close = clear = _nothing


class Selector:
    """``selectors.DefaultSelector`` over channels; its time-out may pass at any time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._keys: dict[Any, SimpleNamespace] = {}

    def __enter__(self) -> Selector:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def register(self, file: Any, events: int, data: Any) -> None:
        self._keys[file] = SimpleNamespace(events=events, data=data)

    modify = register

    def unregister(self, file: Any) -> None:
        del self._keys[file]

    def get_key(self, file: Any) -> SimpleNamespace:
        return self._keys[file]

    def select(self, timeout: float) -> list[tuple[SimpleNamespace, int]]:
        self._world.pause("select", "")
        self._world.clock += _WAIT_S
        readable = [(file, key) for file, key in self._keys.items() if key.data and file.readable]
        return [(key, selectors.EVENT_READ) for _, key in readable]


class Channel:
    """The node's end of the socketpair; the worker's end are the two queues."""

    def __init__(self) -> None:
        self.to_worker: deque[list[Any]] = deque()
        self.to_node = bytearray()
        self.worker: Task | None = None
        self._messages = protocol.MessageReader()

    @property
    def _gone(self) -> bool:
        return self.worker is not None and self.worker.dead

    @property
    def readable(self) -> bool:
        return bool(self.to_node) or self._gone

    def send(self, data: bytes) -> int:
        if self._gone:
            raise BrokenPipeError
        self.to_worker.extend(self._messages.feed(data))
        return len(data)

    def recv(self, size: int) -> bytes:
        if not self.to_node and not self._gone:
            raise BlockingIOError
        data = bytes(self.to_node)
        self.to_node.clear()
        return data

    def close(self) -> None:
        return


class Page(page.Page):
    """A page whose memory is the file's own."""

    def __init__(self, file: File) -> None:
        file.content = bytearray(page.SIZE)
        self._map = file.content  # type: ignore[assignment]
        self._words = memoryview(file.content).cast("q")
        self._barrier = threading.Lock()

    def close(self) -> None:
        self._words.release()


class Process(pool.Process):
    """``engine.pool.Process`` with a worker that is a task of the same actor."""

    def __init__(self, world: World, *given: Any) -> None:
        self._world = world
        super().__init__(*given)

    def _start(self, plan: Any, started: Any, place: Any, forks: Any) -> None:
        self.pid = NO_PID
        fd = plan.store.create_growing(self.segment)
        name = f"{names.PAGES}/{started.attempt}-{self.number}"
        plan.store.create_growing(name)
        file = self._world.disk.find(f"{RUN}/{name}")
        assert isinstance(file, File)
        self.page = Page(file)
        self.page.write(page.INIT)
        self.channel = Channel()  # type: ignore[assignment]
        segment = output.Segment(fd)
        worker = Worker(self._world, started.attempt, self.channel, self.page, segment, self.segment)
        self._task = self._world.spawn(self._world.current.actor, worker.serve)
        self.channel.worker = self._task

    def has_ended(self) -> bool:
        return self._task.dead

    def kill_group(self) -> None:
        self._task.dead = True

    def dump_stack(self) -> None:
        return

    def wait(self) -> Exit:
        assert self._task.dead
        return Exit(-9, 0)

    def collect(self, deadline: float) -> None:
        return

    def has_spoken(self, seconds: float = 0.0) -> bool:
        if seconds and not self.channel.readable:
            self._world.pause("select", "")
            self._world.clock += seconds
        return self.channel.readable


class Worker:
    """A worker process: the order of ``worker/process.py``."""

    def __init__(
        self,
        world: World,
        attempt: Attempt,
        channel: Any,
        shared: page.Page,
        segment: output.Segment,
        segment_name: str,
    ) -> None:
        self._world = world
        self._segment_name = segment_name
        self._attempt = attempt
        self._channel = channel
        self._page = shared
        self._segment = segment

    def serve(self) -> None:
        self._say("ready", 0.0)
        self._page.write(page.IDLE)
        while True:
            self._world.pause("idle", "", lambda: bool(self._channel.to_worker))
            kind, *values = self._channel.to_worker.popleft()
            if kind == "stop":
                self._page.write(page.SHUTDOWN)
                self._say("bye")
                return
            self._report = report.Report(self._segment, self._segment_name, "process")
            try:
                for feed, ordinal, count, *more in values[0]:
                    for n in range(count):
                        self._run(feed + n, ordinal + n, more)
                        if self._world.reports_now():
                            self._tell()
                self._tell()
            except output.SegmentError as error:
                self._say("fault", self._segment_name, str(error))
                return
            self._page.write(page.IDLE)

    def _run(self, feed: int, ordinal: int, more: list[int]) -> None:
        self._page.write(page.LOAD, ordinal, feed)
        result = protocol.Result(
            feed, ordinal, protocol.SKIPPED, ITEMS_EACH, 0, 0, 0, 0, 0, 0.0, 0.0, {**_ERROR, "type": ""}
        )
        if self._page.revoked(feed):
            self._report.tell(result)
            return
        self._page.enter(page.RUN)
        run = self._world.begin_run(self._attempt, ordinal)
        self._world.pause("run", str(ordinal))
        if run.status == protocol.FAILED:
            self._report.tell(result._replace(status=run.status, error={**_ERROR, "type": "ValueError"}))
            return
        self._page.enter(page.WRITE)
        returned = ITEMS_EACH if run.status == protocol.OK else ITEMS_EACH - 1
        run.rows = b"".join(b"%d %d\n" % (ordinal, run.number) for _ in range(returned))
        if run.status == protocol.OK and not more:
            self._report.succeeded(feed, ordinal, ITEMS_EACH, returned, run.rows, (0, 0, 0, 0))
        else:
            self._report.tell(
                result._replace(
                    status=run.status,
                    items_ok=returned,
                    rows_out=returned,
                    offset=self._segment.end,
                    length=len(run.rows),
                    crc32=zlib.crc32(run.rows),
                    error=None if run.status == protocol.OK else {**_ERROR, "type": "ShortReturn"},
                )
            )
            self._segment.append(run.rows)
        run.complete = True

    def _tell(self) -> None:
        self._channel.to_node.extend(self._report.take())

    def _say(self, *message: Any) -> None:
        self._channel.to_node.extend(protocol.encode(list(message)))


class PlanItems:
    """The plan's items."""

    def __init__(self, *given: Any, **named: Any) -> None:
        return

    def count(self, ordinal: int) -> int:
        return ITEMS_EACH

    def names(self, ordinal: int, part: slice) -> list[str]:
        return [f"item-{ordinal}-{n}" for n in range(ITEMS_EACH)][part]

    def is_table(self, ordinal: int) -> bool:
        return False

    def close(self) -> None:
        return


class Claims(claims.Claims):
    """Tells of each chunk that a node takes on."""

    def __init__(self, world: World, *given: Any) -> None:
        self._world = world
        super().__init__(*given)

    def next(self) -> int | None:
        chunk = super().next()
        if chunk is not None:
            self._world.tell(self._world.watch.honoured, self._world.current.actor.attempt, chunk)
        return chunk
