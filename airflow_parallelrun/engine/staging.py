# SPDX-License-Identifier: Apache-2.0
"""Staging: a node copies what its processes need from stores, ahead of need, as far as the spool has room.

A mini-batch passes through here on its way from the claim to the dispatcher. It *waits* until it is known how
much it takes, and there is room for that; its copies are *fetched*, along with those of others; then it is
*ready*. It holds its copies until it is finished. What several mini-batches need, such as a row group of a
Parquet file, is copied once, and stays until its room is needed.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from airflow_parallelrun.datasets import DatasetInput
from airflow_parallelrun.datasets.connections import connected
from airflow_parallelrun.datasets.copies import Copier
from airflow_parallelrun.engine.journal import parse
from airflow_parallelrun.engine.portions import Portion
from airflow_parallelrun.engine.spool import TRANSFERS, Spool, Spooled
from airflow_parallelrun.exceptions import StorageError
from airflow_parallelrun.filesystems import is_remote, locate
from airflow_parallelrun.worker.errors import InputChangedError, LoadError
from airflow_parallelrun.worker.spool import Copies, is_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from airflow_parallelrun.datasets.copies import Copy
    from airflow_parallelrun.engine.finished import Finished
    from airflow_parallelrun.engine.journal import Line
    from airflow_parallelrun.engine.plan import Plan, PlanItems

# So many mini-batches are looked at before there is room for them: footers of Parquet files come from the
# store, too.
LOOK_AHEAD = 64
# How much the last mini-batch counts among those before it.
_WEIGHT = 0.2


def staged_inputs(plan: Plan) -> frozenset[int]:
    """Return the numbers of the inputs that lie, at least in part, at URLs that nodes copy from."""
    inputs = [DatasetInput.from_dict(each) for each in plan.inputs]
    return frozenset(
        number for number, each in enumerate(inputs) if each.is_staged and any(map(is_remote, each.paths))
    )


def spool_folder(folder: str) -> str:
    """Return the folder of copies in a node's temporary folder."""
    return os.path.join(folder, "spool")


def loaded_sources(plan: Plan, folder: str) -> list[dict[str, Any]]:
    """Return what processes need to know of each input to load it.

    :param folder: the node's temporary one
    :raises ConfigurationError: for a connection that nobody knows
    """
    sources = [*map(connected, plan.sources)]
    for number in staged_inputs(plan):
        sources[number]["spool"] = spool_folder(folder)
    return sources


class Staged(NamedTuple):
    """What can be run.

    :param portions: mini-batches in their first try
    :param partial: lines of mini-batches whose parts have not all succeeded
    """

    portions: list[Portion]
    partial: list[Line]


class NoStaging:
    """What takes the place of :class:`Staging` where there is nothing to copy: all is ready at once."""

    #: Mini-batches that were taken on and not handed out.
    pending = 0

    def __init__(self) -> None:
        self._ready = Staged([], [])

    def add(self, portions: Iterable[Portion], partial: Iterable[Line]) -> None:
        """Take on mini-batches.

        :raises StorageError: when the plan's items cannot be read
        """
        self._ready.portions.extend(portions)
        self._ready.partial.extend(partial)

    def take(self) -> Staged:
        """Return what has become ready since the last call.

        :raises StorageError: when the spool cannot be written
        """
        ready, self._ready = self._ready, Staged([], [])
        return ready

    def ahead(self, rate: float) -> int:
        """Return how many mini-batches should be on their way here.

        :param rate: mini-batches that the node finishes in a second
        """
        return 0

    def release(self, finished: Iterable[Finished]) -> None:
        """Remove the copies of mini-batches that are finished."""

    def close(self) -> None:
        """End what is going on."""


@dataclass(eq=False)
class _Batch:
    """A mini-batch.

    :param work: what is to be run once its copies are there
    :param items: the URLs, by their places in it, and what to copy of each
    :param copies: the same with the copies in the spool, once it is known how large they are
    :param missing: how many of the copies are not there
    :param began: those that were begun for it
    :param requests: how many these took
    """

    work: Portion | Line
    items: list[tuple[int, str, Copy]]
    copies: list[tuple[int, str, Spooled]] = field(default_factory=list)
    missing: int = 0
    began: list[Spooled] = field(default_factory=list)
    requests: int = 0


class Staging(NoStaging):
    """The copies of one node. Its methods are for the dispatch thread, and wait for no store.

    :param plan: the plan
    :param items: the plan's items
    :param folder: the node's temporary one
    :param wake: called from any thread when something has become ready
    :raises ConfigurationError: for a connection that nobody knows
    :raises StorageError: when the spool cannot be made
    """

    def __init__(self, plan: Plan, items: PlanItems, folder: str, wake: Callable[[], None]) -> None:
        super().__init__()
        self._items = items
        self._wake = wake
        self._folder = spool_folder(folder)
        self._lock = threading.Lock()
        inputs = staged_inputs(plan)
        for number in inputs:
            # Here and now: what is wrong with a connection must be seen before anything is claimed.
            for path in filter(is_remote, plan.inputs[number]["paths"]):
                locate(path)
        try:
            self._spool = Spool(self._folder, plan.config.spool_bytes, self._lock, self._go_on, self._fail)
        except OSError as error:
            raise StorageError(self._folder, error.strerror or str(error)) from error
        self._copiers = {number: Copier(plan.sources[number], self._spool.pause) for number in inputs}
        self._fault: BaseException | None = None
        self._is_closed = False
        self._waiting: deque[Portion | Line] = deque()
        # In order, those that are looked at, or wait for room; and of all others those that are not finished.
        self._looked_at: deque[_Batch] = deque()
        self._held: dict[int, _Batch] = {}
        # Of a mini-batch: seconds from its first request to its last copy, and requests.
        self._seconds, self._requests = 0.0, 1.0

    def add(self, portions: Iterable[Portion], partial: Iterable[Line]) -> None:
        """See :class:`NoStaging`."""
        with self._lock:
            for portion in portions:
                self._waiting.append(portion)
                self.pending += portion.length
            for line in partial:
                self._waiting.append(line)
                self.pending += 1
            self._go_on()

    def take(self) -> Staged:
        """See :class:`NoStaging`."""
        with self._lock:
            if self._fault is not None:
                raise self._as_ours(self._fault)
            ready = super().take()
            self.pending -= len(ready.portions) + len(ready.partial)
            return ready

    def ahead(self, rate: float) -> int:
        """See :class:`NoStaging`."""
        # What keeps all threads busy; and twice as many as are finished while one is on its way.
        return int(2 * TRANSFERS / self._requests + 2 * rate * self._seconds) + 1

    def release(self, finished: Iterable[Finished]) -> None:
        """See :class:`NoStaging`."""
        with self._lock:
            for each in finished:
                for line in parse(each.data).lines():
                    self._release(line.ordinal)

    def close(self) -> None:
        """See :class:`NoStaging`; the node's folder is removed by whoever made it."""
        with self._lock:
            self._is_closed = True
        self._spool.close()

    # With the lock.

    def _go_on(self) -> None:
        """Look at more mini-batches, and begin with those for which there is room."""
        while True:
            while self._waiting and len(self._looked_at) < LOOK_AHEAD:
                self._look_at(self._next())
            first = self._looked_at[0] if self._looked_at else None
            if first is None or not first.copies:
                return
            if not self._spool.has_room(list({id(each): each for _, _, each in first.copies}.values())):
                return
            self._begin(self._looked_at.popleft())

    def _next(self) -> Portion | Line:
        work = self._waiting.popleft()
        if isinstance(work, Portion) and work.length > 1:
            self._waiting.appendleft(work.tail(1))
            return work.head(1)
        return work

    def _look_at(self, work: Portion | Line) -> None:
        """Find out what a mini-batch takes."""
        source, *items = self._items.line(work.ordinal)
        found: list[tuple[int, str, Copy]] = []
        if source in self._copiers:
            copy = self._copiers[source].copy
            found += [(number, item[0], copy(item)) for number, item in enumerate(items) if is_url(item[0])]
        batch = _Batch(work, found)
        if not found:  # of another input, or on a disk of this machine
            self._is_ready(batch)
            return
        self._looked_at.append(batch)
        if any(copy.needs_look for _, _, copy in found):
            self._spool.looks.do(self._look, source, batch)
        else:
            self._hold(source, batch, {})

    def _hold(self, source: int, batch: _Batch, errors: dict[int, Exception]) -> None:
        for number, url, copy in batch.items:
            spooled = self._spool.hold((source, copy.key), copy, errors.get(number))
            batch.copies.append((number, url, spooled))

    def _begin(self, batch: _Batch) -> None:
        self._held[batch.work.ordinal] = batch
        for _, _, spooled in batch.copies:
            if spooled.is_there:
                continue
            batch.missing += 1
            spooled.arrived.append(lambda: self._has_arrived(batch))
            if not spooled.is_begun:
                batch.began.append(spooled)
                batch.requests += self._spool.begin(spooled)
        if not batch.missing:
            self._spool.quick.do(self._link, batch)

    def _is_ready(self, batch: _Batch) -> None:
        if isinstance(batch.work, Portion):
            self._ready.portions.append(batch.work)
        else:
            self._ready.partial.append(batch.work)
        self._tell()

    def _tell(self) -> None:
        if not self._is_closed:
            self._wake()

    def _release(self, ordinal: int) -> None:
        batch = self._held.pop(ordinal, None)
        if batch is not None:
            self._spool.remove_links(Copies(self._folder, ordinal))
            for _, _, spooled in batch.copies:
                self._spool.let_go(spooled)
            self._go_on()

    # What threads do, without the lock.

    def _look(self, source: int, batch: _Batch) -> None:
        errors: dict[int, Exception] = {}
        for number, _, copy in batch.items:
            try:
                copy.look()
            except (InputChangedError, LoadError) as error:
                errors[number] = error
        with self._lock:
            self._hold(source, batch, errors)
            self._go_on()

    def _has_arrived(self, batch: _Batch) -> None:
        with self._lock:
            batch.missing -= 1
            is_last = not batch.missing
        if is_last:
            self._link(batch)

    def _link(self, batch: _Batch) -> None:
        self._spool.link(Copies(self._folder, batch.work.ordinal), batch.copies)
        now = time.monotonic()
        with self._lock:
            if starts := [each.began for each in batch.began if each.began is not None]:
                seconds = now - min(starts)
                self._seconds += (_WEIGHT if self._seconds else 1.0) * (seconds - self._seconds)
                self._requests += _WEIGHT * (batch.requests - self._requests)
            self._is_ready(batch)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._fault = self._fault or error
            self._tell()

    def _as_ours(self, error: BaseException) -> BaseException:
        if isinstance(error, OSError):
            return StorageError(error.filename or self._folder, error.strerror or str(error))
        return error
