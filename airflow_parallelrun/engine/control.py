# SPDX-License-Identifier: Apache-2.0
"""What nodes tell each other: counts in the names of objects, read with a listing; and one abort proposal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.budget import Failures
from airflow_parallelrun.engine.names import Attempt, ControlEntry
from airflow_parallelrun.engine.rounds import list_attempts

if TYPE_CHECKING:
    from airflow_parallelrun.engine.rounds import Started
    from airflow_parallelrun.engine.store import Store


class Sighting(NamedTuple):
    """What one listing showed.

    :param others: failures of all other attempts in this round, of whatever node
    :param done: mini-batches that they have finished
    :param init_failures: processes of theirs that died in init(), as in ``ControlEntry``
    :param superseded: whether a later attempt of this node exists
    :param aborted: whether a node proposed to stop
    """

    others: Failures
    done: int
    init_failures: int
    superseded: bool
    aborted: bool


class Control:
    """The entry of this attempt among the others of the round."""

    def __init__(self, store: Store, started: Started) -> None:
        self._store = store
        self._started = started
        self._folder = names.control(started.round)
        self._entry = ControlEntry(started.attempt, 0, 0, 0, 0)
        store.put(f"{self._folder}/{self._entry}", b"")

    def publish(self, failures: Failures, done: int, init_failures: int) -> None:
        """Show this attempt's counts."""
        entry = ControlEntry(self._started.attempt, *failures, done, init_failures)
        if entry != self._entry:
            self._store.rename(f"{self._folder}/{self._entry}", f"{self._folder}/{entry}")
            self._entry = entry

    def look(self) -> Sighting:
        """List the entries of the round, and who has started, in whatever round."""
        found = self._store.names(self._folder)
        started = list_attempts(self._store)
        latest: dict[Attempt, ControlEntry] = {}
        for name in found:
            if name != names.ABORT:
                entry = ControlEntry.parse(name)
                latest[entry.attempt] = max(entry, latest.get(entry.attempt, entry))
        own = self._started.attempt
        latest.pop(own, None)
        return Sighting(
            others=Failures(
                sum(entry.failed_items for entry in latest.values()),
                sum(entry.failed_mini_batches for entry in latest.values()),
            ),
            done=sum(entry.done for entry in latest.values()),
            init_failures=sum(entry.init_failures for entry in latest.values()),
            superseded=any(each.node == own.node and each.k > own.k for each in started),
            aborted=names.ABORT in found,
        )

    def propose_abort(self, reasons: list[str]) -> None:
        """Ask all nodes to stop; reduce decides from the sealed ledger whether the job has failed."""
        record = {"by": str(self._started.attempt), "token": self._started.token, "reasons": reasons}
        self._store.create_exclusive(names.abort(self._started.round), json.dumps(record).encode())

    def abort_reasons(self) -> list[str]:
        """Return why the round was asked to stop."""
        return abort_reasons(self._store, self._started.round)


def abort_reasons(store: Store, round_: int) -> list[str]:
    """Return why a round was asked to stop; nothing when it was not."""
    try:
        return list(json.loads(store.read(names.abort(round_)))["reasons"])
    except FileNotFoundError:
        return []
