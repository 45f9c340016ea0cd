# SPDX-License-Identifier: Apache-2.0
"""R5 and R6: one winner per mini-batch whatever the order, and counts that add up."""

from __future__ import annotations

from itertools import chain, count, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workbench import extent, make_line, make_plan, make_streak, write_growing, write_journal

from airflow_parallelrun.engine import journal
from airflow_parallelrun.engine.journal import Extent
from airflow_parallelrun.engine.ledger import (
    FAILED,
    SHORT,
    SUCCEEDED,
    UNPROCESSED,
    Ledger,
    Segments,
    Span,
)
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.rounds import Seal
from airflow_parallelrun.engine.store import Store

# A loaded machine is slow; no example may fail for that.
STEADY = settings(
    deadline=None,
    # The fixture makes a folder of its own for each example.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
STATES = {"ok": SUCCEEDED, "short": SHORT, "failed": FAILED}
MINI_BATCHES = 5
ITEMS = 3
SEGMENT = bytes(range(256))
_NUMBERS = count()


@st.composite
def histories(draw):
    """The lines of several attempts, each attempt with its round; at most one failure per round and batch."""
    attempts = draw(
        st.lists(
            st.builds(Attempt, st.integers(0, 20), st.integers(1, 12)), min_size=1, max_size=6, unique=True
        )
    )
    history, failed_in = [], set()
    for attempt in attempts:
        round_, lines = draw(st.integers(0, 3)), []
        for ordinal in draw(st.lists(st.integers(0, MINI_BATCHES - 1), max_size=5)):
            status = draw(st.sampled_from(["ok", "short", "failed"]))
            if status == "failed" and (ordinal, round_) in failed_in:
                continue
            if status == "failed":
                failed_in.add((ordinal, round_))
            items_ok = {"ok": ITEMS, "short": draw(st.integers(0, ITEMS - 1)), "failed": 0}[status]
            rows = items_ok + (draw(st.integers(0, 2)) if status == "ok" else 0)
            cuts = [0, *sorted(draw(st.sets(st.integers(1, rows - 1)))), rows] if rows > 1 else [0, rows]
            at = draw(st.integers(0, 99))
            extents = [
                extent(f"segments/{attempt}-0-0", at + begin, SEGMENT[at + begin : at + end])
                for begin, end in pairwise(cuts)
                if rows
            ]
            lines.append(
                make_line(ordinal, status, items_in=ITEMS, items_ok=items_ok, rows_out=rows, extents=extents)
            )
        history.append((attempt, round_, lines))
    return history


@pytest.fixture
def read_history(tmp_path):
    """Write the journals of a history into a new run directory, and read the ledger."""
    numbers = count()

    def read(history, shuffle=lambda journals: None):
        plan = make_plan(tmp_path / str(next(numbers)), mini_batches=MINI_BATCHES, items_each=ITEMS)
        journals = []
        for attempt, round_, lines in history:
            write_growing(plan, f"segments/{attempt}-0-0", SEGMENT)
            journals.append((write_journal(plan, attempt, lines, round_), 1 << 20))
        shuffle(journals)
        return Ledger.read(plan, Seal(0, tuple(journals)))

    return read


def winner(history, ordinal):
    """The rule: ok, then short, more items first, then lowest (k, node, place); among failures the latest."""
    mine = [
        (attempt, round_, line, place)
        for attempt, round_, lines in history
        for place, line in enumerate(lines)
        if line.ordinal == ordinal
    ]
    good = [each for each in mine if each[2].succeeded]

    def rank(each):
        attempt, _, line, place = each
        return line.status == "short", -line.items_ok, attempt.k, attempt.node, place

    if good:
        return min(good, key=rank)
    return max(mine, key=lambda each: each[1]) if mine else None


@given(
    rows=st.lists(st.binary(max_size=3), min_size=1, max_size=MINI_BATCHES),
    before=st.lists(st.tuples(st.integers(0, MINI_BATCHES - 1), st.sampled_from(list(STATES))), max_size=2),
    data=st.data(),
)
@settings(STEADY, max_examples=100)
def test_a_streak_comes_to_the_same_as_its_lines(tmp_path, rows, before, data):
    first = data.draw(st.integers(0, MINI_BATCHES - len(rows)))
    without = data.draw(st.sets(st.integers(first, first + len(rows) - 1), max_size=1))
    streak = make_streak(first, rows, without=sorted(without))
    lines = [
        line._replace(
            extents=[extent(name, at, b"".join(rows)[at : at + size]) for name, at, size, _ in line.extents]
        )
        for line in streak.lines()
    ]
    found = []
    for entries in ([streak], lines):
        plan = make_plan(tmp_path / str(next(_NUMBERS)), mini_batches=MINI_BATCHES)
        write_growing(plan, streak.segment, b"".join(rows))
        earlier = [make_line(ordinal, status) for ordinal, status in before]
        journals = [write_journal(plan, Attempt(0, 1), earlier), write_journal(plan, Attempt(0, 2), entries)]
        ledger = Ledger.read(plan, Seal(0, tuple((name, 1 << 20) for name in journals)))
        states = [ledger.state(ordinal) for ordinal in range(MINI_BATCHES)]
        spans = [list(ledger.spans(in_order)) for in_order in (True, False)]
        problems = [record.line for record in ledger.problems()]
        found.append((ledger.counts(), states, spans, problems))
    assert found[0] == found[1]


def test_a_streak_whose_rows_are_damaged_does_not_count(tmp_path):
    plan = make_plan(tmp_path, mini_batches=MINI_BATCHES)
    streak = make_streak(1, [b"a\n", b"b\n"])
    write_growing(plan, streak.segment, b"a\nx\n")
    journal = write_journal(plan, Attempt(0, 1), [streak])
    assert Ledger.read(plan, Seal(0, ((journal, 1 << 20),))).counts().unprocessed == MINI_BATCHES


@given(history=histories(), random=st.randoms(use_true_random=False))
@settings(STEADY, max_examples=100)
def test_any_order_of_journals_gives_the_same_ledger(read_history, history, random):
    one, other = read_history(history), read_history(history, random.shuffle)
    assert one.counts() == other.counts()
    assert list(one.spans()) == list(other.spans())
    assert list(one.problems()) == list(other.problems())
    assert [one.state(n) for n in range(MINI_BATCHES)] == [other.state(n) for n in range(MINI_BATCHES)]


@given(history=histories())
@settings(STEADY, max_examples=200)
def test_the_winner_is_the_one_that_the_rule_names(read_history, history):
    ledger = read_history(history)
    winners = [winner(history, ordinal) for ordinal in range(MINI_BATCHES)]
    for ordinal, won in enumerate(winners):
        expected = STATES[won[2].status] if won else UNPROCESSED
        assert ledger.state(ordinal) == expected
    expected = [won[:3] for won in winners if won and won[2].status != "ok"]
    assert [record[:3] for record in ledger.problems()] == [
        (attempt, round_, line) for attempt, round_, line in expected
    ]
    assert ledger.has_problems == bool(expected)
    assert ledger.counts().rows == sum(won[2].rows_out for won in winners if won)


@given(history=histories())
@settings(STEADY, max_examples=100)
def test_counts_always_add_up(read_history, history):
    ledger = read_history(history)
    counts = ledger.counts()
    assert counts.succeeded + counts.short + counts.failed + counts.unprocessed == counts.mini_batches
    assert counts.items_succeeded + counts.items_failed + counts.items_unprocessed == counts.items
    assert counts.items_unprocessed == counts.unprocessed * ITEMS
    by_state = [list(ledger.ordinals(state)) for state in (UNPROCESSED, FAILED, SHORT, SUCCEEDED)]
    assert sorted(chain(*by_state)) == list(range(MINI_BATCHES))
    assert [*map(len, by_state)] == [counts.unprocessed, counts.failed, counts.short, counts.succeeded]
    assert list(ledger.ordinals(FAILED, SHORT)) == sorted(by_state[1] + by_state[2])


@given(history=histories())
@settings(STEADY, max_examples=200)
def test_neighbours_are_joined_in_the_order_of_the_plan(read_history, history):
    spans = list(read_history(history).spans())
    assert all(span.length for span in spans)
    for one, following in pairwise(spans):
        assert (one.segment, one.offset + one.length) != (following.segment, following.offset)
    winners = [winner(history, ordinal) for ordinal in range(MINI_BATCHES)]
    plain = [
        (part.segment, part.offset + at)
        for won in winners if won for part in won[2].extents for at in range(part.length)
    ]  # fmt: skip
    assert [(span.segment, span.offset + at) for span in spans for at in range(span.length)] == plain


def test_success_comes_before_failure_and_lowest_k_before_lowest_node(read_history):
    def attempt(node, k, status, items_ok=1):
        line = make_line(0, status, items_in=ITEMS, items_ok=items_ok, rows_out=10 * node + k)
        return Attempt(node, k), 0, [line]

    assert read_history([attempt(0, 1, "failed"), attempt(5, 9, "ok")]).state(0) == SUCCEEDED
    assert read_history([attempt(2, 1, "ok"), attempt(1, 1, "ok")]).counts().rows == 11
    assert read_history([attempt(2, 10, "ok"), attempt(1, 11, "ok")]).counts().rows == 30
    assert read_history([attempt(10, 1, "ok"), attempt(9, 1, "ok")]).counts().rows == 91


def test_the_better_result_counts_of_what_was_run_again(read_history):
    def attempt(k, status, items_ok):
        line = make_line(0, status, items_in=ITEMS, items_ok=items_ok, rows_out=100 * k + items_ok)
        return Attempt(0, k), k - 1, [line]

    one, two, none = attempt(1, "short", 1), attempt(2, "short", 2), attempt(2, "failed", 0)
    assert read_history([one, attempt(2, "ok", ITEMS)]).state(0) == SUCCEEDED
    assert read_history([one, two]).counts().rows == 202
    assert read_history([two, attempt(3, "short", 1)]).counts().rows == 202
    assert read_history([one, attempt(2, "short", 1)]).counts().rows == 101
    assert read_history([one, none]).state(0) == SHORT
    assert read_history([attempt(1, "ok", ITEMS), attempt(2, "ok", ITEMS)]).counts().rows == 100 + ITEMS


def test_a_later_rounds_failure_explains(read_history):
    def attempt(k, round_, message):
        error = {"type": "E", "message": message, "frame": None, "traceback": ""}
        return Attempt(0, k), round_, [make_line(0, "failed", error=error)]

    (record,) = read_history([attempt(1, 0, "old"), attempt(2, 1, "new"), attempt(3, 0, "older")]).problems()
    assert record.line.error["message"] == "new"


def test_failures_are_read_again_in_the_order_of_the_plan_from_any_number_of_journals(
    read_history, monkeypatch
):
    monkeypatch.setattr(journal, "JOURNALS_OPEN", 2)
    errors = [{"type": "E", "message": str(n), "frame": None, "traceback": ""} for n in range(MINI_BATCHES)]
    lines = [make_line(n, "failed", error=errors[n]) for n in range(MINI_BATCHES)]
    ledger = read_history([(Attempt(MINI_BATCHES - n, 1), 0, [lines[n]]) for n in range(MINI_BATCHES)])
    opened = []
    open_ = Store.open
    monkeypatch.setattr(Store, "open", lambda self, name: opened.append(open_(self, name)) or opened[-1])
    for number, record in enumerate(ledger.problems()):
        assert (record.attempt, record.line) == (Attempt(MINI_BATCHES - number, 1), lines[number])
        assert sum(not file.closed for file in opened) <= 2
    assert len(opened) == MINI_BATCHES
    assert all(file.closed for file in opened)


def test_a_mini_batch_in_several_segments_keeps_their_order(tmp_path):
    plan = make_plan(tmp_path, mini_batches=2)
    for name in "ab":
        write_growing(plan, f"segments/{name}", SEGMENT)
    several = [("b", 0, 2), ("b", 2, 5), ("a", 5, 6)]
    lines = [
        make_line(0, extents=[extent(f"segments/{s}", at, SEGMENT[at:end]) for s, at, end in several]),
        make_line(1, extents=[extent("segments/a", 6, SEGMENT[6:10])]),
    ]
    ledger = Ledger.read(plan, Seal(0, ((write_journal(plan, Attempt(0, 1), lines), 1 << 20),)))
    assert list(ledger.spans()) == [Span("segments/b", 0, 5), Span("segments/a", 5, 5)]


@pytest.fixture
def plan(tmp_path):
    plan = make_plan(tmp_path, mini_batches=4)
    write_growing(plan, "segments/0-1-0-0", b"onetwothree")
    write_growing(plan, "segments/0-1-1-0", b"")
    return plan


def read(plan, lines):
    name = write_journal(plan, Attempt(0, 1), lines)
    return Ledger.read(plan, Seal(0, ((name, 1 << 20),)))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (extent("segments/0-1-0-0", 3, b"owt"), "other bytes"),
        (Extent("segments/0-1-0-0", 3, 3, 0), "wrong crc"),
        (Extent("segments/0-1-0-0", 6, 100, 0), "beyond the end"),
        (extent("segments/0-1-1-0", 0, b"x"), "empty segment"),
        (extent("segments/9-9-9-9", 0, b"x"), "no segment"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_line_whose_bytes_are_not_there_does_not_count(plan, bad, why):
    good = extent("segments/0-1-0-0", 0, b"one")
    ledger = read(plan, [make_line(0, extents=[good]), make_line(1, extents=[good, bad]), make_line(2)])
    assert [ledger.state(n) for n in range(4)] == [SUCCEEDED, UNPROCESSED, SUCCEEDED, UNPROCESSED]
    assert ledger.counts().unprocessed == 2


def test_rows_are_read_back(plan):
    extents = [extent("segments/0-1-0-0", at, data) for at, data in ((6, b"three"), (0, b"one"))]
    ledger = read(plan, [make_line(n, extents=[each]) for n, each in enumerate(extents)])
    with Segments(plan.store) as segments:
        assert [b"".join(segments.read(span)) for span in ledger.spans()] == [b"three", b"one"]
        assert segments.are_intact(extents)


def test_every_sealed_line_is_told_also_one_that_does_not_count(plan):
    bad = make_line(1, extents=[Extent("segments/0-1-0-0", 3, 3, 0)])
    name = write_journal(plan, Attempt(0, 1), [make_line(0), bad, make_line(0)])
    told = []
    Ledger.read(plan, Seal(0, ((name, 1 << 20),)), told=told.append)
    assert [record.line.ordinal for record in told] == [0, 1, 0]
    assert [record.offset for record in told] == sorted({record.offset for record in told})


def test_only_sealed_journals_count(plan):
    write_journal(plan, Attempt(0, 1), [make_line(0)])
    assert Ledger.read(plan, Seal(0, ())).counts().unprocessed == 4
