# SPDX-License-Identifier: Apache-2.0
"""Attempts, rounds and seals: who may work on what, and what counts.

A *round* ends with a seal: the list of journals and lengths that count for its verdict. A node that starts
before the seal continues the round; one that starts after it opens the next. Retry, clear and resume are
this one mechanism.

A round also ends when a node starts again that was aborted in it. Nobody retries a node that ended in order:
a person wants its failures done again, which the abort would stop at once.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from airflow_parallelrun.engine.progress import Progress
    from airflow_parallelrun.engine.store import Store

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Started:
    """An attempt of this process.

    :param attempt: its number
    :param round: the round that it works in
    :param token: unique to this process; tells its claims from another's
    """

    attempt: Attempt
    round: int
    token: str


@dataclass(frozen=True)
class Seal:
    """What counts for the verdict of a round.

    :param round: the round
    :param journals: name and length of each journal; what comes behind the length does not count
    :param sealed_at: UTC, ISO 8601; None for a look at a round that is not sealed
    """

    round: int
    journals: tuple[tuple[str, int], ...]
    sealed_at: str | None = field(default=None, compare=False)


def utc_now() -> str:
    """Return the time for people, in ISO 8601."""
    return iso_time(time.time())


def iso_time(seconds: float) -> str:
    """Return a time for people, in ISO 8601.

    :param seconds: since the epoch
    """
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def start_attempt(store: Store, node: int) -> Started:
    """Register this process as the next attempt of a node, in the round that is open now."""
    while True:
        round_ = sealed_rounds(store)
        taken = [each.k for each in list_attempts(store) if each.node == node]
        # Not the last one alone: it may have started beside the one that was aborted.
        if any(_was_aborted(store, Attempt(node, k), round_) for k in taken):
            seal(store)
            continue
        attempt = Attempt(node, 1 + max(taken, default=0))
        token = secrets.token_hex(8)
        record = {
            "format_version": FORMAT_VERSION,
            "round": round_,
            "token": token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": utc_now(),
        }
        if not store.create_exclusive(f"{names.ATTEMPTS}/{attempt}", json.dumps(record).encode()):
            continue
        # A seal that was set meanwhile has closed the round under us: work in it would count for nothing.
        if sealed_rounds(store) == round_:
            return Started(attempt, round_, token)


def end_attempt(store: Store, started: Started, message: str, progress: Progress, **figures: float) -> None:
    """Write down how an attempt ended.

    :param message: in words
    :param progress: its last one; its state is the outcome
    :param figures: what else is to be known of it
    """
    record = {
        "format_version": FORMAT_VERSION,
        "round": started.round,
        "outcome": progress.state,
        "message": message,
        **figures,
        **progress.to_dict(),
    }
    store.put(f"{names.ENDS}/{started.attempt}", json.dumps(record).encode())


def list_attempts(store: Store) -> list[Attempt]:
    """Return every attempt that has started, sorted."""
    return sorted(Attempt.parse(name) for name in store.names(names.ATTEMPTS))


def attempts(store: Store) -> dict[Attempt, int]:
    """Return every attempt and its round, sorted."""
    return {
        attempt: int(json.loads(store.read(f"{names.ATTEMPTS}/{attempt}"))["round"])
        for attempt in list_attempts(store)
    }


def sealed_rounds(store: Store) -> int:
    """Return how many rounds are sealed, which is the number of the open one."""
    round_ = 0
    while store.exists(names.seal(round_)):
        round_ += 1
    if round_:  # what is built on a seal must not outlive it, and its maker may not have flushed its name yet
        store.sync_names(os.path.dirname(names.seal(round_ - 1)))
    return round_


def journals(store: Store) -> tuple[tuple[str, int], ...]:
    """Return every journal and its length now."""
    return tuple((f"{names.JOURNAL}/{entry.name}", entry.size) for entry in store.entries(names.JOURNAL))


def make_durable(store: Store, journal: str) -> None:
    """Flush a journal that others are to build on.

    :raises StorageError: when that is refused
    """
    try:
        store.sync(journal)
    except OSError as error:
        raise StorageError(store.path(journal), error.strerror or str(error)) from error


def seal(store: Store) -> Seal:
    """Seal the open round; or, when no node has worked since the last seal, return that.

    Repeated and concurrent calls return the same seal.
    """
    round_ = sealed_rounds(store)
    if round_ and round_ not in attempts(store).values():
        last = read_seal(store, round_ - 1)
        if not _ended_since(store, last):
            return last
    found = journals(store)
    for name, _ in found:
        make_durable(store, name)  # of a node that is alive the last lines may not be yet
    if found:  # nor their names
        store.sync_names(names.JOURNAL)
    record = {
        "format_version": FORMAT_VERSION,
        "round": round_,
        "token": secrets.token_hex(8),
        "sealed_at": utc_now(),
        "journals": found,
    }
    if store.create_exclusive(names.seal(round_), json.dumps(record).encode()):
        return read_seal(store, round_)
    return seal(store)  # somebody else was faster, and may have listed the journals before a node ended


def read_seal(store: Store, round_: int) -> Seal:
    """Read the seal of a round."""
    record = json.loads(store.read(names.seal(round_)))
    found = tuple((str(name), int(length)) for name, length in record["journals"])
    return Seal(round_, found, record.get("sealed_at"))


def is_last(store: Store, round_: int) -> bool:
    """Tell whether no later round than this one has been sealed."""
    return not store.exists(names.seal(round_ + 1))


def _was_aborted(store: Store, attempt: Attempt, round_: int) -> bool:
    """Tell whether an attempt has ended, in this round, because a threshold was exceeded."""
    try:
        end = json.loads(store.read(f"{names.ENDS}/{attempt}"))
    except FileNotFoundError:
        return False
    return bool(end["outcome"] == "aborted" and end["round"] == round_)


def _ended_since(store: Store, seal: Seal) -> bool:
    """Tell whether a node of an earlier round has ended with work that the seal does not know.

    It had started just before the seal, or was frozen meanwhile. One that still works does not count: its
    journal would be another one at every look.
    """
    sealed = dict(seal.journals)
    ended = {Attempt.parse(name) for name in store.names(names.ENDS)}
    return any(
        length > sealed.get(name, 0) and Attempt.parse(name.rpartition("/")[2]) in ended
        for name, length in journals(store)
    )
