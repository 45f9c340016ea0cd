# SPDX-License-Identifier: Apache-2.0
"""R2 and R5: attempts number themselves; a verdict is sealed once."""

from __future__ import annotations

import json
import os
import threading

import pytest
from workbench import make_line, make_plan, write_journal

from airflow_parallelrun.engine import names, ownership
from airflow_parallelrun.engine import reduce as reducing
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.rounds import (
    Seal,
    attempts,
    is_last,
    journals,
    read_seal,
    seal,
    sealed_rounds,
    start_attempt,
)
from airflow_parallelrun.engine.standing import is_judged, mini_batches_left, published_result
from airflow_parallelrun.exceptions import OutputOwnedError, ThresholdExceededError


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


def end(store, attempt, outcome, round_=0):
    """Leave what a node leaves at its end."""
    store.put(f"{names.ENDS}/{attempt}", json.dumps({"outcome": outcome, "round": round_}).encode())


def test_a_node_that_was_aborted_and_starts_again_opens_the_next_round(store):
    """Nobody has judged the round, as when a person marks the run failed; its abort would stop them again."""
    for node in (0, 1):
        end(store, start_attempt(store, node).attempt, "aborted")
    assert [(each.attempt, each.round) for each in (start_attempt(store, 0), start_attempt(store, 1))] == [
        (Attempt(0, 2), 1),
        (Attempt(1, 2), 1),
    ]
    assert not store.exists(names.abort(1))
    assert seal(store).round == 1


@pytest.mark.parametrize("outcome", ["finished", "interrupted", "failed"])
def test_a_node_that_ended_otherwise_goes_on_in_its_round(store, outcome):
    end(store, start_attempt(store, 0).attempt, outcome)
    assert start_attempt(store, 0).round == 0


def test_an_abort_of_an_earlier_round_opens_no_other(store):
    end(store, start_attempt(store, 0).attempt, "aborted")
    seal(store)
    assert start_attempt(store, 0).round == 1
    assert sealed_rounds(store) == 1


def test_work_that_ended_after_the_seal_is_in_the_next(plan):
    started = start_attempt(plan.store, 0)
    assert seal(plan.store) == Seal(0, ())
    name = write_journal(plan, started.attempt, [make_line(0)])
    assert seal(plan.store) == Seal(0, ())  # its node may be at work still
    assert is_last(plan.store, 0)
    end(plan.store, started.attempt, "interrupted")
    assert seal(plan.store) == Seal(1, journals(plan.store))
    assert [each for each, _ in journals(plan.store)] == [name]
    assert seal(plan.store).round == 1
    assert not is_last(plan.store, 0)


def late(job, ordinal):
    """Have a node that started before the seal end after it, with one mini-batch done by then."""
    started = start_attempt(job.plan.store, 0)
    with pytest.raises(Exception, match="not processed"):
        job.reduce()
    line = make_line(ordinal, rows_out=0)
    write_journal(job.plan, started.attempt, [line])
    return started.attempt


def test_what_was_done_after_the_seal_is_not_done_again(job, echo):
    job.files(4).split(echo, output_action="summary_only")
    late(job, 2)
    result = job.run()
    assert (result.round, result.counts.succeeded) == (1, 4)
    assert job.calls() == {"00000": 1, "00001": 1, "00003": 1}


def test_a_reduce_that_was_overtaken_publishes_nothing_old(job, monkeypatch):
    """It was frozen just before its output got its name; meanwhile what failed was done again."""
    script = """
        def run(mini_batch):
            if mini_batch[0].endswith("1") and not os.path.exists(MENDED):
                raise ValueError("broken")
            return [os.path.basename(path) for path in mini_batch]
    """.replace("MENDED", repr(str(job.folder / "mended")))
    job.files(3).split(script, error_threshold=1, run_max_try=1).node()
    assemble = reducing.assemble

    def frozen(*arguments):
        monkeypatch.undo()
        (job.folder / "mended").touch()
        assert job.run().round == 1
        return assemble(*arguments)

    monkeypatch.setattr(reducing, "assemble", frozen)
    assert job.reduce().round == 1
    assert job.rows() == job.names(3)
    assert job.result()["round"] == 1
    left = sorted(path.name for path in job.output.iterdir())
    assert left == [".parallelrun", "job_result.json", "logs", "parallel_run_step.txt"]


FAILS = """
    def run(mini_batch):
        raise ValueError("broken")
"""


def test_a_verdict_comes_before_a_file_that_is_in_the_way(job):
    job.files(1).split(FAILS, run_max_try=1).node()
    (job.output / "parallel_run_step.txt").write_text("mine")
    with pytest.raises(ThresholdExceededError, match="ValueError: broken"):
        job.reduce()
    assert job.result()["verdict"] == "failed"
    (job.output / "job_result.json").unlink()
    (job.output / "job_result.json").write_text("mine")
    with pytest.raises(ThresholdExceededError, match="ValueError: broken"):
        job.reduce()
    assert (job.output / "job_result.json").read_text() == "mine"
    assert (job.output / "parallel_run_step.txt").read_text() == "mine"


def test_a_verdict_counts_what_another_round_would_do(job, echo):
    job.files(3).split(FAILS, run_max_try=1, error_threshold=1, process_count_per_node=1).node()
    with pytest.raises(ThresholdExceededError) as caught:
        job.reduce()
    assert caught.value.left == 3
    assert (is_judged(job.plan), mini_batches_left(job.plan)) == (True, 3)
    assert published_result(job.plan)["verdict"] == "failed"


def test_where_a_run_stands(job, echo):
    plan = job.files(3).split(echo).plan
    assert (is_judged(plan), mini_batches_left(plan), published_result(plan)) == (False, 3, None)
    job.node()
    assert (is_judged(plan), mini_batches_left(plan), published_result(plan)) == (False, 0, None)
    job.reduce()
    assert (is_judged(plan), mini_batches_left(plan)) == (True, 0)
    assert published_result(plan) == job.result()
    (job.output / "parallel_run_step.txt").unlink()
    assert published_result(plan) is None


def test_an_output_folder_that_was_removed_is_made_again_and_one_that_was_taken_is_not(job, echo):
    job.files(2).split(echo, storage_root=str(job.folder / "runs"))
    first = job.plan
    job.run()
    job.output.rename(job.folder / "away")
    job.reduce()
    assert job.rows() == job.names(2)
    job.output.rename(job.folder / "away-again")
    job.files(3).split(echo, owner="test/2").run()
    with pytest.raises(OutputOwnedError, match="belongs to another run \\(test/2\\)"):
        reducing.reduce(first.run_dir)
    assert job.rows() == job.names(3)
    assert ownership.is_published(str(job.output), "job_result.json")
