# SPDX-License-Identifier: Apache-2.0
"""Bisection: what fails is found, what is healthy beside it succeeds, and the line says which."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workbench import make_config, make_line

from airflow_parallelrun.engine.journal import Extent, parse
from airflow_parallelrun.engine.portions import Portion
from airflow_parallelrun.engine.tries import Tries

ERROR = {"type": "ValueError", "message": "bad", "frame": "score.py, line 3, in run", "traceback": "T"}


def only(tries):
    """The one line that has come of it."""
    (finished,) = tries.finished
    return parse(finished.data)


def next_portion(tries):
    (portion,) = tries.queue.take(1)
    return portion


def drive(tries, count, poison, short=()):
    """Run everything that is queued; return what was run, in places of items, piece by piece.

    :param count: the items of the mini-batch
    """
    ran = []
    while tries.queue:
        portion = next_portion(tries)
        places = list(range(portion.first, portion.first + (portion.items or count)))
        ran.append(places)
        ok = [place for place in places if place not in short]
        values = {"items_in": len(places), "items_ok": len(ok), "rows_out": len(ok)}
        if poison & set(places):
            values |= {"status": "failed", "items_ok": 0, "rows_out": 0, "error": dict(ERROR)}
        elif len(ok) < len(places):
            values |= {"status": "short", "error": {**ERROR, "type": "ShortReturn", "traceback": ""}}
        else:
            values |= {"status": "ok", "error": None}
        if values["rows_out"]:
            values["extents"] = [Extent("segments/0-1-0-0", place, 1, place) for place in ok]
        tries.take(portion, make_line(portion.ordinal, tries=portion.tries, **values))
    return ran


def bisect(count, poison, short=(), **config):
    tries = Tries(make_config(**{"bisect_failures": True, "run_max_try": 1, **config}))
    tries.queue.add([Portion(7)])
    ran = drive(tries, count, set(poison), set(short))
    return ran, only(tries)


def failed_places(line):
    return [part.first for part in line.parts if part.status == "failed" for _ in range(part.items)]


@given(
    st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1)))
)
def test_exactly_the_poison_items_fail(case):
    count, poison = case
    ran, line = bisect(count, poison)
    healthy = [place for place in range(count) if place not in poison]
    assert failed_places(line) == sorted(poison)
    assert [extent.offset for extent in line.extents] == healthy  # the rows of the others, in order
    assert (line.items_in, line.items_ok, line.rows_out) == (count, len(healthy), len(healthy))
    assert line.status == ("short" if healthy else "failed")
    assert sum(part.items for part in line.parts) == count
    assert [part.first for part in line.parts] == sorted(part.first for part in line.parts)
    # A healthy item is run in pieces that fail until one succeeds, and then never again.
    for place in healthy:
        assert [piece for piece in ran if place in piece and not poison & set(piece)] != []
        assert sum(place in piece and not poison & set(piece) for piece in ran) == 1


def test_one_poison_item_of_a_thousand_costs_two_runs_a_halving():
    ran, line = bisect(1000, {617})
    assert len(ran) == 1 + 2 * 10
    assert [part.items for part in line.parts] == [617, 1, 382]


def test_the_line_has_the_first_error_and_each_part_its_own():
    _, line = bisect(4, {1, 3})
    assert line.error == {**ERROR, "traceback": ""}
    assert [part.error and part.error["traceback"] for part in line.parts] == [None, "T", None, "T"]


def test_a_part_that_comes_back_short_stays_as_it_is():
    ran, line = bisect(4, {0}, short={3})
    assert ran == [[0, 1, 2, 3], [0, 1], [0], [1], [2, 3]]
    assert [(part.first, part.items, part.status, part.items_ok) for part in line.parts] == [
        (0, 1, "failed", 0),
        (1, 1, "ok", 1),
        (2, 2, "short", 1),
    ]
    assert (line.status, line.items_ok) == ("short", 2)


def test_what_goes_well_in_halves_is_a_clean_success():
    tries = Tries(make_config(bisect_failures=True, run_max_try=2))
    tries.queue.add([Portion(0)])
    for _ in range(2):
        portion = next_portion(tries)
        tries.take(portion, make_line(0, "failed", items_in=4, tries=portion.tries))
    drive(tries, 4, set())
    line = only(tries)
    assert (line.status, line.tries, line.error, line.parts) == ("ok", 2, None, ())


@pytest.mark.parametrize(("max_try", "runs"), [(1, 3), (3, 5)])
def test_it_begins_when_the_last_try_has_failed_and_parts_have_one_each(max_try, runs):
    ran, line = bisect(2, {0}, run_max_try=max_try)
    assert len(ran) == runs
    assert line.tries == max_try


def test_it_ends_when_single_items_have_used_up_the_tolerance():
    ran, line = bisect(64, set(range(64)), error_threshold=2)
    assert line.status == "failed"
    assert sum(part.items for part in line.parts) == 64
    assert len(ran) < 20  # of 127
    assert sum(part.items == 1 for part in line.parts) > 2  # the verdict is beyond doubt


def test_without_it_nothing_is_halved():
    ran, line = bisect(4, {0}, bisect_failures=False)
    assert ran == [[0, 1, 2, 3]]
    assert (line.status, line.parts) == ("failed", ())


def test_a_changed_input_is_not_halved():
    tries = Tries(make_config(bisect_failures=True))
    tries.queue.add([Portion(0)])
    error = {**ERROR, "type": "InputChangedError"}
    tries.take(next_portion(tries), make_line(0, "failed", items_in=4, error=error))
    assert not tries.queue
    assert only(tries).parts == ()


def test_a_later_round_goes_on_with_what_failed_alone():
    _, line = bisect(10, {2, 7}, short={5})
    tries = Tries(make_config(run_max_try=2))
    tries.go_on(line)
    ran = drive(tries, 10, {7})
    again = only(tries)
    # What had succeeded is not run; what fails again gets its tries.
    assert sorted(place for piece in ran for place in piece if place != 7) == [2, *piece_of(line, 5)]
    assert [piece for piece in ran if piece == [7]] == [[7], [7]]
    assert failed_places(again) == [7]
    assert (again.items_in, again.items_ok) == (10, 9)
    assert [extent.offset for extent in again.extents] == [n for n in range(10) if n != 7]


def piece_of(line, place):
    """The places of the short part that an item is in."""
    part = next(p for p in line.parts if p.first <= place < p.first + p.items)
    assert part.status == "short"
    return list(range(part.first, part.first + part.items))


def test_a_short_part_that_gets_worse_keeps_what_it_had():
    _, line = bisect(4, {0}, short={3})
    tries = Tries(make_config(run_max_try=1))
    tries.go_on(line)
    drive(tries, 4, {0, 2})
    again = only(tries)
    assert (again.status, again.items_ok) == ("short", 2)
    assert [extent.offset for extent in again.extents] == [1, 2]


RETRIES = make_config(retry_short_returns=True, run_max_try=3)


def short_line(tries, ok):
    error = {"type": "ShortReturn", "message": "fewer", "frame": None, "traceback": ""}
    extents = [Extent("segments/0-1-0-0", 10 * tries, ok, 0)]
    values = {"items_in": 5, "items_ok": ok, "rows_out": ok, "extents": extents, "error": error}
    return make_line(0, "short", tries=tries, **values)


def failed_line(tries):
    return make_line(0, "failed", items_in=5, tries=tries)


@pytest.mark.parametrize(
    ("lines", "ok", "offset"),
    [
        ([short_line(1, 4), short_line(2, 2), short_line(3, 3)], 4, 10),
        ([short_line(1, 2), failed_line(2), short_line(3, 4)], 4, 30),
        ([short_line(1, 3), failed_line(2), failed_line(3)], 3, 10),
        ([failed_line(1), failed_line(2), short_line(3, 1)], 1, 30),
    ],
)
def test_the_best_of_the_tries_counts_when_short_returns_are_tried_again(lines, ok, offset):
    tries = Tries(RETRIES)
    tries.queue.add([Portion(0)])
    for line in lines:
        assert not tries.finished
        tries.take(next_portion(tries), line)
    line = only(tries)
    assert (line.status, line.items_ok, line.tries) == ("short", ok, 3)
    assert line.extents[0].offset == offset


def test_a_short_return_is_the_last_word_by_default():
    tries = Tries(make_config(run_max_try=3))
    tries.queue.add([Portion(0)])
    tries.take(next_portion(tries), short_line(1, 4))
    assert not tries.queue
    assert only(tries).items_ok == 4


def test_one_that_is_complete_at_the_second_try_is_clean():
    tries = Tries(RETRIES)
    tries.queue.add([Portion(0)])
    tries.take(next_portion(tries), short_line(1, 4))
    tries.take(next_portion(tries), make_line(0, items_in=5, items_ok=5, rows_out=5, tries=2))
    line = only(tries)
    assert (line.status, line.tries) == ("ok", 2)


POISON = """
def run(mini_batch, context):
    called(mini_batch)
    with open(os.path.join(CALLS, "..", "indices"), "a") as file:
        file.write(context.minibatch_index + "\\n")
    names = [os.path.basename(path) for path in mini_batch]
    if any(name.endswith("3") for name in names):
        FAULT
    return names
"""


@pytest.mark.parametrize(
    "fault", ["raise ValueError('poison')", "os._exit(7)", "import time; time.sleep(60)"]
)
def test_a_run_finds_the_poison_and_keeps_the_rest(job, fault):
    script = POISON.replace("FAULT", fault).replace("CALLS", repr(str(job.folder / "calls")))
    config = {"mini_batch_size": 10, "run_max_try": 1, "run_invocation_timeout": 1, "error_threshold": 3}
    job.files(30).split(script, bisect_failures=True, **config)
    result = job.run()
    assert result.verdict == "succeeded with errors"
    counts = result.counts
    assert (counts.succeeded, counts.short, counts.failed, counts.unprocessed) == (0, 3, 0, 0)
    assert (counts.items_succeeded, counts.items_failed, counts.rows) == (27, 3, 27)
    assert job.rows() == job.names(30, without={3, 13, 23})
    indices = (job.folder / "indices").read_text().split()
    assert {"0", "1", "2", "0.0", "1.5", "2.3"} <= set(indices)
    # What had succeeded was not run again.
    assert job.calls()["00003"] > job.calls()["00009"]


def test_journal_lines_with_parts_count_by_their_bytes(job):
    script = POISON.replace("FAULT", "raise ValueError('poison')").replace(
        "CALLS", repr(str(job.folder / "calls"))
    )
    job.files(10).split(script, mini_batch_size=10, run_max_try=1, bisect_failures=True, error_threshold=1)
    job.run()
    (journal,) = (job.output / ".parallelrun").glob("*/journal/*")
    line = json.loads(journal.read_text().splitlines()[1])
    spans = [extent for part in line["parts"] for extent in part[5]]
    assert spans == line["extents"]
    for segment, offset, length, crc in spans:
        data = (journal.parent.parent / segment).read_bytes()[offset : offset + length]
        assert zlib.crc32(data) == crc
