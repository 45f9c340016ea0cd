# SPDX-License-Identifier: Apache-2.0
"""R8: counts in names, several attempts at once, and one proposal to stop."""

from __future__ import annotations

import json

import pytest

from airflow_parallelrun.engine.budget import Failures
from airflow_parallelrun.engine.control import Control, Sighting
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.rounds import Started
from airflow_parallelrun.engine.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def control(store, node, k=1, round_=0):
    store.put(f"attempts/{node}-{k}", b"")
    return Control(store, Started(Attempt(node, k), round_, f"token{node}{k}"))


def test_an_attempt_is_seen_from_its_start(store):
    assert control(store, 0).look() == Sighting(Failures(0, 0), 0, 0, superseded=False, aborted=False)
    assert store.names("control/0") == ["0-1-0-0-0-0"]


def test_counts_of_all_other_nodes_and_attempts_are_added(store):
    one, other, retried = control(store, 0), control(store, 1), control(store, 1, k=2)
    one.publish(Failures(3, 1), 10, 0)
    other.publish(Failures(20, 4), 30, 2)
    retried.publish(Failures(500, 6), 70, 5)
    assert one.look() == Sighting(Failures(520, 10), 100, 7, False, False)
    assert retried.look() == Sighting(Failures(23, 5), 40, 2, False, False)
    assert store.names("control/0") == ["0-1-3-1-10-0", "1-1-20-4-30-2", "1-2-500-6-70-5"]


def test_an_entry_changes_its_name_and_stays_one(store):
    mine = control(store, 0)
    for done in range(5):
        mine.publish(Failures(done, done), done, 0)
        mine.publish(Failures(done, done), done, 0)
    assert store.names("control/0") == ["0-1-4-4-4-0"]


def test_an_entry_seen_twice_while_it_is_renamed_counts_once(store):
    control(store, 0)
    for name in ("0-1-2-1-9-0", "0-1-10-3-12-0"):  # 2 sorts behind 10 as text
        store.put(f"control/0/{name}", b"")
    assert control(store, 1).look().others == Failures(10, 3)


def test_only_a_later_attempt_of_the_same_node_supersedes(store):
    first, second = control(store, 1), control(store, 1, k=2)
    control(store, 0, k=3)
    control(store, 11, k=3)
    assert first.look().superseded
    assert not second.look().superseded
    third = control(store, 1, k=10)
    assert second.look().superseded
    assert not third.look().superseded


def test_an_attempt_of_a_later_round_supersedes_too(store):
    sleeper = control(store, 1)
    control(store, 1, k=2, round_=1)
    assert sleeper.look().superseded


def test_one_proposal_to_stop_and_all_see_it(store):
    one, other = control(store, 0), control(store, 1)
    assert not one.look().aborted
    one.propose_abort(["5 items failed"])
    other.propose_abort(["late"])
    assert one.look().aborted
    assert other.look().aborted
    assert one.abort_reasons() == other.abort_reasons() == ["5 items failed"]
    assert json.loads(store.read("control/0/abort.json"))["by"] == "0-1"
    assert other.look().others == Failures(0, 0)


def test_rounds_know_nothing_of_each_other(store):
    control(store, 0).propose_abort(["old"])
    control(store, 0).publish(Failures(9, 9), 9, 9)
    assert control(store, 0, k=2, round_=1).look() == Sighting(Failures(0, 0), 0, 0, False, False)
