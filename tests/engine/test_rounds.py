# SPDX-License-Identifier: Apache-2.0
"""R2 and R5: attempts number themselves; a verdict is sealed once."""

from __future__ import annotations

import json
import os
import threading

import pytest
from workbench import make_line, make_plan, write_journal

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.rounds import (
    Seal,
    attempts,
    read_seal,
    seal,
    sealed_rounds,
    start_attempt,
)


@pytest.fixture
def plan(tmp_path):
    plan = make_plan(tmp_path)
    plan.store.put(names.PROBE, b"x")
    return plan


@pytest.fixture
def store(plan):
    return plan.store


def test_attempts_of_a_node_count_up_from_one(store):
    started = [start_attempt(store, node) for node in (0, 1, 0, 10, 1, 1)]
    assert [str(each.attempt) for each in started] == ["0-1", "1-1", "0-2", "10-1", "1-2", "1-3"]
    assert len({each.token for each in started}) == 6
    assert attempts(store) == {each.attempt: 0 for each in sorted(started, key=lambda each: each.attempt)}
    record = json.loads(store.read("attempts/10-1"))
    assert (record["format_version"], record["round"], record["pid"]) == (1, 0, os.getpid())


def test_ten_attempts_are_counted_as_numbers(store):
    assert [start_attempt(store, 0).attempt.k for _ in range(12)] == list(range(1, 13))


def test_attempts_at_the_same_time_all_get_a_number_of_their_own(store):
    started = []
    barrier = threading.Barrier(6)

    def start():
        barrier.wait()
        started.extend(start_attempt(store, 0).attempt for _ in range(5))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(started) == [Attempt(0, k) for k in range(1, 31)]


def test_a_seal_names_journals_and_lengths(plan):
    for node in (1, 0):
        started = start_attempt(plan.store, node)
        write_journal(plan, started.attempt, [make_line(node)])
    sizes = {entry.name: entry.size for entry in plan.store.entries("journal")}
    expected = tuple((f"journal/{name}", sizes[name]) for name in ("0-1-0.jsonl", "1-1-0.jsonl"))
    assert seal(plan.store) == Seal(0, expected)
    assert read_seal(plan.store, 0) == Seal(0, expected)


def test_a_repeated_seal_is_the_same_whatever_was_written_since(plan):
    started = start_attempt(plan.store, 0)
    name = write_journal(plan, started.attempt, [make_line(0)])
    first = seal(plan.store)
    with open(plan.store.path(name), "ab") as file:
        file.write(make_line(1).encode())
    write_journal(plan, Attempt(7, 1), [make_line(2)])
    assert seal(plan.store) == first
    assert sealed_rounds(plan.store) == 1


def test_concurrent_seals_are_one(plan):
    start_attempt(plan.store, 0)
    seals = []
    barrier = threading.Barrier(6)

    def do_seal(number):
        barrier.wait()
        write_journal(plan, Attempt(number, 1), [make_line(0)])
        seals.append(seal(plan.store))

    threads = [threading.Thread(target=do_seal, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seals) == 6
    assert set(seals) == {read_seal(plan.store, 0)}
    assert sealed_rounds(plan.store) == 1


def test_a_loser_takes_the_winners_seal(plan, monkeypatch):
    start_attempt(plan.store, 0)
    create = type(plan.store).create_exclusive

    def beaten(store, name, data):
        monkeypatch.undo()
        write_journal(plan, Attempt(0, 1), [make_line(0)])
        assert len(seal(store).journals) == 1
        return create(store, name, data)

    monkeypatch.setattr(type(plan.store), "create_exclusive", beaten)
    assert len(seal(plan.store).journals) == 1


def test_without_any_attempt_there_is_a_verdict_all_the_same(store):
    assert seal(store) == Seal(0, ())
    assert seal(store) == Seal(0, ())


def test_what_starts_before_the_seal_continues_the_round_and_what_starts_after_opens_the_next(store):
    assert start_attempt(store, 0).round == 0
    assert start_attempt(store, 0).round == 0
    assert seal(store).round == 0
    assert start_attempt(store, 1).round == 1
    retried = start_attempt(store, 0)
    assert (retried.attempt, retried.round) == (Attempt(0, 3), 1)
    assert seal(store).round == 1
    assert seal(store).round == 1
    assert sealed_rounds(store) == 2


def test_an_attempt_overtaken_by_a_seal_goes_on_in_the_next_round(plan, monkeypatch):
    start_attempt(plan.store, 0)
    create = type(plan.store).create_exclusive

    def overtaken(store, name, data):
        monkeypatch.undo()
        won = create(store, name, data)
        seal(store)
        return won

    monkeypatch.setattr(type(plan.store), "create_exclusive", overtaken)
    started = start_attempt(plan.store, 1)
    assert (started.attempt, started.round) == (Attempt(1, 2), 1)
    assert attempts(plan.store) == {Attempt(0, 1): 0, Attempt(1, 1): 0, Attempt(1, 2): 1}
    assert seal(plan.store).round == 1


def test_an_attempt_beaten_to_its_number_takes_the_next(plan, monkeypatch):
    create = type(plan.store).create_exclusive

    def beaten(store, name, data):
        monkeypatch.undo()
        assert start_attempt(store, 0).attempt == Attempt(0, 1)
        return create(store, name, data)

    monkeypatch.setattr(type(plan.store), "create_exclusive", beaten)
    assert start_attempt(plan.store, 0).attempt == Attempt(0, 2)
