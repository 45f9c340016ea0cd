# SPDX-License-Identifier: Apache-2.0
"""R4: a line is whole or it does not count; a journal belongs to one plan."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workbench import PLAN_ID, extent, make_line, make_plan, make_streak, write_growing, write_journal

from airflow_parallelrun.engine.journal import Extent, JournalLines, Line, Part, Streak, header, read_journal
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.exceptions import StorageError

# A loaded machine is slow; no example may fail for that.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
BIG = st.integers(0, 2**62)
NAME = st.from_regex(r"[a-z0-9/-]{1,20}", fullmatch=True)
SECONDS = st.integers(0, 10**9).map(lambda micro: micro / 1e6)
ERROR = st.none() | st.fixed_dictionaries(
    {"type": st.text(), "message": st.text(), "frame": st.none() | st.text(), "traceback": st.text()}
)
STATUS = st.sampled_from(["ok", "short", "failed"])
EXTENTS = st.lists(st.builds(Extent, NAME, BIG, BIG, st.integers(0, 2**32 - 1)), max_size=3)
PARTS = st.lists(st.builds(Part, BIG, BIG, STATUS, BIG, BIG, EXTENTS, ERROR), min_size=1, max_size=3)
LINE = st.builds(
    Line, BIG, STATUS, BIG, BIG, BIG, BIG, EXTENTS,
    SECONDS, SECONDS, NAME, st.integers(0, 10**12).map(lambda milli: milli / 1e3), ERROR,
    st.just(()) | PARTS,
)  # fmt: skip
ATTEMPT = Attempt(3, 2)


@pytest.fixture
def plan(tmp_path):
    return make_plan(tmp_path)


def read(plan, name, length=1 << 30):
    return list(read_journal(plan.store, name, length, PLAN_ID))


@STEADY
@given(LINE)
def test_a_line_is_json_with_the_fields_by_name(line):
    text = line.encode()
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    expected = json.loads(json.dumps(line._asdict()))
    if not line.parts:
        del expected["parts"]
    assert json.loads(text) == expected


@given(line=st.lists(LINE, max_size=4), round_=st.integers(0, 9))
@settings(STEADY, max_examples=50)
def test_what_was_written_is_read(tmp_path_factory, line, round_):
    plan = make_plan(tmp_path_factory.mktemp("run"))
    name = write_journal(plan, ATTEMPT, line, round_)
    found = read(plan, name)
    assert [record[:3] for record in found] == [(ATTEMPT, round_, each) for each in line]
    with JournalLines(plan.store) as lines:
        for record in reversed(found):
            assert lines.read(name, record.offset) == record.line


@given(st.lists(st.tuples(*[st.integers(0, 2**40)] * 6), min_size=1, max_size=5), st.data())
@settings(STEADY, max_examples=50)
def test_a_streak_is_read_as_it_was_written_and_stands_for_its_lines(tmp_path_factory, values, data):
    plan = make_plan(tmp_path_factory.mktemp("run"))
    items, rows_out, lengths, run_us, cpu_us, ended_us = (
        list(column) for column in zip(*values, strict=True)
    )
    without = sorted(data.draw(st.sets(st.integers(7, 6 + len(values)))))
    streak = Streak(
        7,
        "process001",
        "segments/0-1-1-0",
        5,
        99,
        1.5,
        items,
        rows_out,
        lengths,
        run_us,
        cpu_us,
        ended_us,
        without,
    )
    (record,) = read(plan, write_journal(plan, ATTEMPT, [streak]))
    assert record.entry == streak
    lines, offset = {line.ordinal: line for line in record.lines()}, 5
    assert list(lines) == [ordinal for ordinal in streak.ordinals if ordinal not in without]
    for ordinal, value in zip(streak.ordinals, values, strict=True):
        if line := lines.get(ordinal):
            assert (line.status, line.tries, line.error, line.process) == ("ok", 1, None, "process001")
            assert (line.items_in, line.items_ok, line.rows_out) == (value[0], value[0], value[1])
            assert [each[:3] for each in line.extents] == [("segments/0-1-1-0", offset, value[2])][: value[2]]
            assert (line.seconds, line.finished) == (value[3] / 1e6, 1.5 + value[5] / 1e6)
        offset += value[2]


def test_text_that_is_no_utf8_comes_back(plan):
    error = {"type": "OSError", "message": "% \udcff \n \"'", "frame": None, "traceback": "\0"}
    line = make_line(0, "failed", error=error)
    (record,) = read(plan, write_journal(plan, ATTEMPT, [line]))
    assert record.line == line


def test_cut_at_any_length_only_whole_lines_count(plan):
    lines = [make_line(ordinal, extents=[extent("segments/0-1-0-0", 0, b"x")]) for ordinal in range(3)]
    start = header(PLAN_ID, ATTEMPT, 0)
    whole = start + b"".join(line.encode() for line in lines)
    ends = [len(start)]
    for line in lines:
        ends.append(ends[-1] + len(line.encode()))
    name = write_growing(plan, "journal/3-2-0.jsonl", whole)
    for length in range(len(whole) + 1):
        count = sum(length >= end for end in ends[1:])
        assert [record.line for record in read(plan, name, length)] == lines[:count]


def test_what_comes_behind_the_sealed_length_does_not_count(plan):
    name = write_growing(
        plan, "journal/3-2-0.jsonl", header(PLAN_ID, ATTEMPT, 0) + make_line(0).encode() + b"garbage\n"
    )
    assert len(read(plan, name, plan.store.entries("journal")[0].size - len(b"garbage\n"))) == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"garbage\n",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"\0\0\0\n",
        b"\xff\n",
        b'{"extents":[["a",1]]}\n',
        b'{"extents":[]}\n',
        make_line(1).encode().replace(b"}\n", b"}}\n"),
        b'{"streak":1}\n',
        make_streak(1, [b"a", b"b"]).encode().replace(b"[1,1]", b"[1]", 1),
        make_streak(1, [b"a", b"b"]).encode().replace(b"[1,1]", b"1", 1),
    ],
)
def test_a_damaged_line_does_not_count_and_is_told_with_its_place(plan, damage, caplog):
    data = header(PLAN_ID, ATTEMPT, 0) + make_line(0).encode() + damage + make_line(1).encode()
    name = write_growing(plan, "journal/3-2-0.jsonl", data)
    assert [record.line.ordinal for record in read(plan, name)] == [0, 1]
    assert "3-2-0.jsonl: line 3 is damaged" in caplog.text


@pytest.mark.parametrize("first", [b"garbage\n", b"{}\n", b"[]\n", b"\n", b"\0\n"])
def test_behind_a_damaged_first_line_nothing_counts(plan, first, caplog):
    name = write_growing(plan, "journal/3-2-0.jsonl", first + make_line(0).encode())
    assert read(plan, name) == []
    assert "3-2-0.jsonl: nothing counts" in caplog.text


def test_an_empty_journal_is_no_reason_to_worry(plan, caplog):
    name = write_growing(plan, "journal/3-2-0.jsonl", b"")
    assert read(plan, name, 0) == []
    assert not caplog.text


def test_another_plans_journal_is_refused(plan):
    name = write_growing(plan, "journal/3-2-0.jsonl", header("other", ATTEMPT, 0) + make_line(0).encode())
    with pytest.raises(StorageError, match=f"not a journal of plan {PLAN_ID}"):
        read(plan, name)


def test_a_newer_format_is_refused(plan):
    first = header(PLAN_ID, ATTEMPT, 0).replace(b'"format_version": 1', b'"format_version": 2')
    with pytest.raises(StorageError, match="in format 1"):
        read(plan, write_growing(plan, "journal/3-2-0.jsonl", first))


def test_success_is_everything_but_failed():
    assert [make_line(0, status).succeeded for status in ("ok", "short", "failed")] == [True, True, False]
