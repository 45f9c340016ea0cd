# SPDX-License-Identifier: Apache-2.0
"""R5 and R6: one winner per mini-batch whatever the order, and counts that add up."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workbench import extent, make_line, make_plan, write_growing, write_journal

from airflow_parallelrun.engine.journal import Extent, Record
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

# A loaded machine is slow; no example may fail for that.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
STATES = {"ok": SUCCEEDED, "short": SHORT, "failed": FAILED}
MINI_BATCHES = 5
ITEMS = 3


@st.composite
def histories(draw):
    """Lines of several attempts, each with its place; at most one failure per round and mini-batch."""
    attempts = draw(
        st.lists(
            st.builds(Attempt, st.integers(0, 20), st.integers(1, 12)), min_size=1, max_size=6, unique=True
        )
    )
    entries, failed_in = [], set()
    for attempt in attempts:
        round_ = draw(st.integers(0, 3))
        ordinals = draw(st.lists(st.integers(0, MINI_BATCHES - 1), max_size=5))
        for place, ordinal in enumerate(ordinals):
            status = draw(st.sampled_from(["ok", "short", "failed"]))
            if status == "failed" and (ordinal, round_) in failed_in:
                continue
            if status == "failed":
                failed_in.add((ordinal, round_))
            items_ok = {"ok": ITEMS, "short": draw(st.integers(0, ITEMS - 1)), "failed": 0}[status]
            rows = items_ok + (draw(st.integers(0, 2)) if status == "ok" else 0)
            segment = f"segments/{attempt}-0-0"
            extents = [Extent(segment, draw(st.integers(0, 99)), rows, 0)] if rows else []
            line = make_line(
                ordinal, status, items_in=ITEMS, items_ok=items_ok, rows_out=rows, extents=extents
            )
            entries.append((Record(attempt, round_, line), place))
    return entries


def enter(entries, plan=None):
    ledger = Ledger(plan or make_plan("/nowhere", mini_batches=MINI_BATCHES, items_each=ITEMS))
    for record, place in entries:
        ledger._enter(record, place)
    return ledger


def winner(entries, ordinal):
    """The rule: success first, then lowest (k, node, place); among failures the latest round."""
    mine = [(record, place) for record, place in entries if record.line.ordinal == ordinal]
    good = [each for each in mine if each[0].line.succeeded]
    if good:
        return min(good, key=lambda each: (each[0].attempt.k, each[0].attempt.node, each[1]))[0]
    return max(mine, key=lambda each: each[0].round)[0] if mine else None


@given(histories(), st.randoms(use_true_random=False))
@settings(STEADY, max_examples=200)
def test_any_order_of_lines_gives_the_same_ledger(entries, random):
    one = enter(entries)
    random.shuffle(entries)
    other = enter(entries)
    assert one.counts() == other.counts()
    assert list(one.spans()) == list(other.spans())
    assert list(one.problems()) == list(other.problems())
    assert [one.state(n) for n in range(MINI_BATCHES)] == [other.state(n) for n in range(MINI_BATCHES)]


@given(histories())
@settings(STEADY, max_examples=200)
def test_the_winner_is_the_one_that_the_rule_names(entries):
    ledger = enter(entries)
    winners = [winner(entries, ordinal) for ordinal in range(MINI_BATCHES)]
    for ordinal, record in enumerate(winners):
        expected = STATES[record.line.status] if record else UNPROCESSED
        assert ledger.state(ordinal) == expected
        assert ledger.succeeded(ordinal) == (expected >= SHORT)
    assert list(ledger.problems()) == [each for each in winners if each and each.line.status != "ok"]
    assert ledger.has_problems == any(each and each.line.status != "ok" for each in winners)
    assert ledger.counts().rows == sum(each.line.rows_out for each in winners if each)
    extents = [extent for each in winners if each for extent in each.line.extents]
    assert sum(span.length for span in ledger.spans()) == sum(each.length for each in extents)


@given(histories())
@settings(STEADY, max_examples=200)
def test_counts_always_add_up(entries):
    ledger = enter(entries)
    counts = ledger.counts()
    assert counts.succeeded + counts.short + counts.failed + counts.unprocessed == counts.mini_batches
    assert counts.items_succeeded + counts.items_failed + counts.items_unprocessed == counts.items
    assert counts.items_unprocessed == counts.unprocessed * ITEMS
    by_state = [list(ledger.ordinals(state)) for state in (UNPROCESSED, FAILED, SHORT, SUCCEEDED)]
    assert sorted(chain(*by_state)) == list(range(MINI_BATCHES))
    assert [*map(len, by_state)] == [counts.unprocessed, counts.failed, counts.short, counts.succeeded]


@given(histories())
@settings(STEADY, max_examples=200)
def test_neighbours_are_joined_in_the_order_of_the_plan(entries):
    ledger = enter(entries)
    spans = list(ledger.spans())
    assert all(span.length for span in spans)
    for one, following in pairwise(spans):
        assert (one.segment, one.offset + one.length) != (following.segment, following.offset)
    winners = [winner(entries, ordinal) for ordinal in range(MINI_BATCHES)]
    plain = [
        (part.segment, part.offset + at)
        for each in winners if each for part in each.line.extents for at in range(part.length)
    ]  # fmt: skip
    assert [(span.segment, span.offset + at) for span in spans for at in range(span.length)] == plain


def test_success_comes_before_failure_and_lowest_k_before_lowest_node():
    def entry(node, k, status, place=0):
        return Record(Attempt(node, k), 0, make_line(0, status, rows_out=10 * node + k)), place

    assert enter([entry(0, 1, "failed"), entry(5, 9, "ok")]).state(0) == SUCCEEDED
    assert enter([entry(0, 2, "ok"), entry(5, 1, "short")]).state(0) == SHORT
    assert enter([entry(2, 1, "ok"), entry(1, 1, "ok")]).counts().rows == 11
    assert enter([entry(2, 10, "ok"), entry(1, 11, "ok")]).counts().rows == 30


def test_a_later_rounds_failure_explains():
    def entry(round_, message):
        error = {"type": "E", "message": message, "frame": None, "traceback": ""}
        return Record(Attempt(0, round_ + 1), round_, make_line(0, "failed", error=error)), 0

    ledger = enter([entry(0, "old"), entry(1, "new"), entry(0, "older")])
    (record,) = ledger.problems()
    assert record.line.error["message"] == "new"


def test_a_mini_batch_in_several_segments_keeps_their_order():
    extents = [Extent("b", 0, 2, 0), Extent("b", 2, 3, 0), Extent("a", 5, 1, 0)]
    lines = [make_line(0, extents=extents), make_line(1, extents=[Extent("a", 6, 4, 0)])]
    ledger = enter([(Record(Attempt(0, 1), 0, line), n) for n, line in enumerate(lines)])
    assert list(ledger.spans()) == [Span("b", 0, 5), Span("a", 5, 5)]


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
    segments = Segments(plan.store)
    assert [bytes(segments.read(span)) for span in ledger.spans()] == [b"three", b"one"]
    assert bytes(segments.view(extents[0])) == b"three"


def test_only_sealed_journals_count(plan):
    write_journal(plan, Attempt(0, 1), [make_line(0)])
    assert Ledger.read(plan, Seal(0, ())).counts().unprocessed == 4
