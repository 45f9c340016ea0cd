# SPDX-License-Identifier: Apache-2.0
"""Portions are cut and put together, and no mini-batch is lost or doubled by it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_parallelrun.engine.bisection import Bisection
from airflow_parallelrun.engine.portions import InFlight, Portion, PortionQueue

LENGTHS = st.lists(st.integers(1, 9), max_size=8)


def portions_of(lengths):
    """Portions that follow each other in the plan."""
    found, start = [], 0
    for length in lengths:
        found.append(Portion(start, length))
        start += length
    return found


def ordinals(portions):
    return [portion.ordinal + n for portion in portions for n in range(portion.length)]


@given(LENGTHS, st.lists(st.integers(0, 12), max_size=20))
def test_a_queue_gives_what_it_was_given_in_order(lengths, counts):
    queue = PortionQueue()
    queue.add(portions_of(lengths))
    total, taken = sum(lengths), []
    for count in counts:
        assert len(queue) == total - len(taken)
        part = ordinals(queue.take(count))
        assert len(part) == min(count, total - len(taken))
        taken += part
    assert taken == list(range(len(taken)))
    assert ordinals(queue) == list(range(len(taken), total))


def test_what_goes_before_all_others_keeps_its_order():
    queue = PortionQueue()
    queue.add([Portion(9)])
    queue.add([Portion(0, 2), Portion(5)], first=True)
    assert ordinals(queue) == [0, 1, 5, 9]
    assert len(queue) == 4


def test_what_is_to_run_alone_comes_before_all_others_and_by_itself():
    queue = PortionQueue()
    queue.add([Portion(0, 3), Portion(7, alone=True), Portion(8, alone=True)])
    queue.add([Portion(5)], first=True)
    queue.add([Portion(6, alone=True)], first=True)
    assert len(queue) == 7
    assert ordinals(queue) == [6, 7, 8, 5, 0, 1, 2]
    taken = []
    while queue.alone:
        taken.append(ordinals(queue.take(10)))
    assert taken == [[6], [7], [8]]
    assert ordinals(queue.take(10)) == [5, 0, 1, 2]
    assert len(queue) == 0


@given(LENGTHS, st.data())
def test_what_a_process_has(lengths, data):
    """Any neighbours can be taken out, from the front, the middle or the end."""
    in_flight, left = InFlight(), {}
    for portion in portions_of(lengths):
        feed = in_flight.add(portion)
        left.update({feed + n: portion.ordinal + n for n in range(portion.length)})
    assert in_flight.next_feed == sum(lengths)
    for _ in range(6):
        feed, count = data.draw(st.integers(0, sum(lengths) + 1)), data.draw(st.integers(1, 12))
        wanted = range(feed, feed + count)
        if data.draw(st.booleans()):
            taken = in_flight.take(feed, count)
            expected = [left.pop(each) for each in wanted] if set(wanted) <= left.keys() else []
        else:
            taken = in_flight.take_behind(feed)
            expected = [left.pop(each) for each in sorted(left) if each > feed]
        assert ordinals(taken) == expected
        assert list(in_flight) == sorted(left)
        assert len(in_flight) == len(left)


def test_what_a_process_is_told():
    assert Portion(3, 5).message == [3, 5]
    assert Portion(3, tries=2).message == [3, 1, 2]
    assert Portion(3, bisection=Bisection(9), first=4, items=2).message == [3, 1, 1, 4, 2]
