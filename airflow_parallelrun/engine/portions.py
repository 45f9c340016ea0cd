# SPDX-License-Identifier: Apache-2.0
"""Portions of the plan: what waits in a node, and what its processes have.

Hardly anything is done for a single mini-batch here. A portion is any number of neighbours as long as nothing
is special about them; it is cut where a process gets no more, or where something becomes of one of them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_parallelrun.engine.bisection import Bisection
    from airflow_parallelrun.engine.journal import Line


class Portion(NamedTuple):
    """Neighbouring mini-batches in their first try; or one that is tried again, or a part of one.

    :param ordinal: the first mini-batch
    :param length: how many mini-batches; a part counts as one
    :param tries: which try this is, from 1
    :param best: what an earlier try came back with that was short; None without one
    :param bisection: what this is a part of; None for whole mini-batches
    :param first: of a part, the first item's place in the mini-batch
    :param items: of a part, how many items
    :param alone: whether nothing else runs on the node meanwhile; only of a single mini-batch
    """

    ordinal: int
    length: int = 1
    tries: int = 1
    best: Line | None = None
    bisection: Bisection | None = None
    first: int = 0
    items: int = 0
    alone: bool = False

    @property
    def message(self) -> list[int]:
        """What a process is told, behind the feed number; see ``worker/protocol.py``."""
        if self.bisection is not None:
            return [self.ordinal, 1, self.tries, self.first, self.items]
        return [self.ordinal, self.length] if self.tries == 1 else [self.ordinal, 1, self.tries]

    def head(self, count: int) -> Portion:
        """Return the first so many mini-batches, or all if they are fewer."""
        return self if count >= self.length else self._replace(length=count)

    def tail(self, count: int) -> Portion:
        """Return what is behind the first so many mini-batches, one at least."""
        return self._replace(ordinal=self.ordinal + count, length=self.length - count) if count else self


class PortionQueue:
    """Portions that no process has; its length is that in mini-batches."""

    def __init__(self) -> None:
        self._portions: deque[Portion] = deque()
        # Those that are to run alone come before all others.
        self._alone: deque[Portion] = deque()
        self._length = 0

    def __len__(self) -> int:
        """Return how many mini-batches wait."""
        return self._length

    def __iter__(self) -> Iterator[Portion]:
        """Yield them in order."""
        yield from self._alone
        yield from self._portions

    @property
    def alone(self) -> bool:
        """Whether the next one is to run alone."""
        return bool(self._alone)

    def add(self, portions: Iterable[Portion], first: bool = False) -> None:
        """Add portions in their order, at the end or before all others."""
        for portion in reversed(list(portions)) if first else portions:
            self._length += portion.length
            queue = self._alone if portion.alone else self._portions
            (queue.appendleft if first else queue.append)(portion)

    def take(self, count: int) -> list[Portion]:
        """Take so many mini-batches from the front, or all if they are fewer; one if it is to run alone."""
        if self._alone:
            self._length -= 1
            return [self._alone.popleft()]
        taken: list[Portion] = []
        while count and self._portions:
            portion = self._portions.popleft()
            head = portion.head(count)
            if head.length < portion.length:
                self._portions.appendleft(portion.tail(head.length))
            taken.append(head)
            count -= head.length
            self._length -= head.length
        return taken


class InFlight:
    """What a process has, in the order in which it runs it. Each mini-batch has a feed number of its own."""

    def __init__(self) -> None:
        # Each with the feed number of its first mini-batch.
        self._portions: deque[tuple[int, Portion]] = deque()
        self._length = 0
        self.next_feed = 0

    def __len__(self) -> int:
        """Return how many mini-batches the process has."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """Yield their feed numbers."""
        for feed, portion in self._portions:
            yield from range(feed, feed + portion.length)

    @property
    def alone(self) -> bool:
        """Whether what the process has is to run alone."""
        return bool(self._portions) and self._portions[0][1].alone

    def add(self, portion: Portion) -> int:
        """Add a portion, and return the feed number of its first mini-batch."""
        feed = self.next_feed
        self._portions.append((feed, portion))
        self._length += portion.length
        self.next_feed += portion.length
        return feed

    def take(self, feed: int, count: int = 1) -> list[Portion]:
        """Take out mini-batches by their feed numbers; nothing unless all of them are here.

        :param feed: the first
        :param count: how many in a row
        """
        if not self._has(feed, count):
            return []
        passed: list[tuple[int, Portion]] = []
        while self._portions[0][0] + self._portions[0][1].length <= feed:
            passed.append(self._portions.popleft())
        taken: list[Portion] = []
        self._length -= count
        while count:
            start, portion = self._portions.popleft()
            if start < feed:
                passed.append((start, portion.head(feed - start)))
            portion = portion.tail(feed - start)
            head = portion.head(count)
            taken.append(head)
            feed += head.length
            count -= head.length
            if head.length < portion.length:
                self._portions.appendleft((feed, portion.tail(head.length)))
        self._portions.extendleft(reversed(passed))
        return taken

    def take_behind(self, feed: int) -> list[Portion]:
        """Take out everything with a higher feed number."""
        taken: list[Portion] = []
        while self._portions:
            start, portion = self._portions[-1]
            keep = max(0, feed + 1 - start)
            if keep >= portion.length:
                break
            self._portions.pop()
            if keep:
                self._portions.append((start, portion.head(keep)))
            taken.append(portion.tail(keep))
            self._length -= taken[-1].length
        return taken[::-1]

    def _has(self, feed: int, count: int) -> bool:
        end = feed + count
        for start, portion in self._portions:
            if start > feed:
                return False
            feed = max(feed, start + portion.length)
            if feed >= end:
                return True
        return False
