# SPDX-License-Identifier: Apache-2.0
"""Claims: a node takes chunks, one exclusive create each; there is no lease, no clock and no coordinator."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.names import Attempt

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Started


class Claims:
    """The chunks that a node may take in a round.

    A node begins looking at its own share of the plan and goes round, so that nodes meet late. A node that
    was started again owns what earlier attempts of it claimed, also what one claims that is still alive.

    :param plan: the plan
    :param started: this attempt
    :param chunks: the chunks that have something to do in this round
    """

    def __init__(self, plan: Plan, started: Started, chunks: Collection[int]) -> None:
        self._plan = plan
        self._started = started
        self._store = plan.store
        self._folder = names.claims(started.round)
        taken = {int(name) for name in self._store.names(self._folder)}
        self._inherited = [chunk for chunk in sorted(taken, reverse=True) if self._inherits(chunk)]
        if self._inherited:  # an attempt that was killed may not have flushed their names
            self._store.sync_names(self._folder)
        first = started.attempt.node * len(plan.chunk_starts) // plan.node_count
        free = sorted(set(chunks) - taken)
        self._free = [chunk for chunk in free if chunk >= first] + [chunk for chunk in free if chunk < first]
        self._free.reverse()
        #: How long a claim takes here, in seconds; the latest ones weigh most.
        self.seconds = 0.0

    @property
    def free(self) -> int:
        """How many chunks this node could still get, as far as it knows."""
        return len(self._free) + len(self._inherited)

    def look(self) -> None:
        """Take note of what others have claimed meanwhile."""
        taken = {int(name) for name in self._store.names(self._folder)}
        gone = taken.intersection(self._free)
        self._free = [chunk for chunk in self._free if chunk not in gone]
        self._inherited += [chunk for chunk in sorted(gone, reverse=True) if self._inherits(chunk)]

    def next(self) -> int | None:
        """Claim a chunk; None when there is none left."""
        if self._inherited:
            return self._inherited.pop()
        content = json.dumps({"attempt": str(self._started.attempt), "token": self._started.token}).encode()
        while self._free:
            chunk = self._free.pop()
            began = time.monotonic()
            won = self._store.create_exclusive(f"{self._folder}/{chunk}", content)
            self.seconds = 0.8 * self.seconds + 0.2 * (time.monotonic() - began)
            if won or self._inherits(chunk):
                return chunk
            self.look()  # where one is taken, others are
        return self._inherited.pop() if self._inherited else None

    def _inherits(self, chunk: int) -> bool:
        """Tell whether an earlier attempt of this node has claimed a chunk that is taken."""
        own = self._started.attempt
        if own.k == 1:
            return False
        claimed_by = Attempt.parse(json.loads(self._store.read(f"{self._folder}/{chunk}"))["attempt"])
        return claimed_by.node == own.node and claimed_by.k < own.k
