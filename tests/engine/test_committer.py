# SPDX-License-Identifier: Apache-2.0
"""R4: rows are durable before their line, the line before it is counted; and a disk that refuses."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from workbench import extent, make_line, make_plan

from airflow_parallelrun.engine import committer as module
from airflow_parallelrun.engine.committer import WRITE_TRIES, Committer, FileJournal
from airflow_parallelrun.engine.finished import Finished
from airflow_parallelrun.engine.journal import parse
from airflow_parallelrun.exceptions import StorageError

HEADER = b'{"header": 1}\n'
FULL = OSError(errno.ENOSPC, "No space left on device")


class Desk:
    """A committer on a real file, and what it did in which order."""

    def __init__(self, path):
        self.path = path
        self.events = []
        self.sync_errors = []
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.write(self.fd, HEADER)
        self.woken = threading.Event()
        self.committer = Committer(FileJournal(self.fd, str(path), self.sync), self.woken.set)

    def sync(self, segment):
        self.events.append(("sync", segment, self.lines()))
        if self.sync_errors:
            raise self.sync_errors.pop(0)

    def lines(self):
        return self.path.read_bytes()[len(HEADER) :]

    def close(self):
        self.committer.close()
        os.close(self.fd)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    monkeypatch.setattr(module, "BACKOFF_S", 0.0)
    desk = Desk(tmp_path / "journal")
    yield desk
    desk.close()


def lines_with_rows(*ordinals):
    lines = [make_line(n, extents=[extent(f"segments/0-1-{n % 2}-0", n, b"x")]) for n in ordinals]
    return [Finished.of(line) for line in lines]


def test_segments_are_synced_once_each_before_the_lines_are_written(desk):
    lines = lines_with_rows(0, 1, 2)
    desk.committer.add(lines, hurry=True)
    desk.committer.flush()
    assert sorted(event[1] for event in desk.events) == ["segments/0-1-0-0", "segments/0-1-1-0"]
    assert {event[2] for event in desk.events} == {b""}
    assert desk.lines() == b"".join(each.data for each in lines)
    assert list(desk.committer.committed) == lines
    assert desk.woken.wait(10)


def test_the_journal_is_durable_before_it_is_counted(desk, monkeypatch):
    seen = []
    fdatasync = os.fdatasync
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: (seen.append(len(desk.committer.committed)), fdatasync(fd))[1]
    )
    desk.committer.add(lines_with_rows(0), hurry=True)
    desk.committer.flush()
    assert seen == [0]
    assert len(desk.committer.committed) == 1


def test_lines_are_committed_without_being_asked_and_in_order(desk):
    for ordinal in range(20):
        desk.committer.add([Finished.of(make_line(ordinal))])
    desk.committer.flush()
    assert [parse(each.data).ordinal for each in desk.committer.committed] == list(range(20))
    assert desk.lines() == b"".join(make_line(n).encode() for n in range(20))


def test_flush_with_nothing_to_do_returns(desk):
    desk.committer.flush()
    desk.committer.flush()
    assert desk.lines() == b""


def test_a_write_that_fails_is_repeated_at_the_same_place(desk, monkeypatch):
    pwrite, places = os.pwrite, []

    def half_then_full(fd, data, at):
        places.append(at)
        if len(places) == 1:
            return pwrite(fd, data[:10], at)
        if len(places) == 2:
            raise FULL
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", half_then_full)
    lines = lines_with_rows(0, 1)
    desk.committer.add(lines, hurry=True)
    desk.committer.flush()
    start = len(HEADER)
    assert places == [start, start + 10, start]
    assert desk.lines() == b"".join(each.data for each in lines)
    assert list(desk.committer.committed) == lines


def test_after_a_repeated_write_the_next_commit_stands_behind_it(desk):
    desk.sync_errors = [FULL]
    desk.committer.add(lines_with_rows(0), hurry=True)
    desk.committer.flush()
    desk.committer.add(lines_with_rows(1), hurry=True)
    desk.committer.flush()
    assert desk.lines() == b"".join(each.data for each in lines_with_rows(0, 1))


def test_a_segment_that_cannot_be_synced_commits_nothing(desk):
    desk.sync_errors = [FULL] * WRITE_TRIES
    desk.committer.add(lines_with_rows(0), hurry=True)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        desk.committer.flush()
    assert caught.value.retryable
    assert len(desk.events) == WRITE_TRIES
    assert desk.lines() == b""
    assert not desk.committer.committed
    assert desk.woken.wait(10)
    with pytest.raises(StorageError):
        desk.committer.check()


def test_a_disk_that_recovers_in_time_costs_nothing(desk):
    desk.sync_errors = [FULL] * (WRITE_TRIES - 1)
    desk.committer.add(lines_with_rows(0), hurry=True)
    desk.committer.flush()
    assert len(desk.committer.committed) == 1


def test_nothing_is_committed_after_it_gave_up(desk):
    desk.sync_errors = [FULL] * WRITE_TRIES
    desk.committer.add(lines_with_rows(0), hurry=True)
    with pytest.raises(StorageError):
        desk.committer.flush()
    desk.committer.add([Finished.of(make_line(1))], hurry=True)
    with pytest.raises(StorageError):
        desk.committer.flush()
    assert desk.lines() == b""


def test_closing_ends_the_wait_for_a_disk(desk, monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_S", 600.0)
    desk.sync_errors = [FULL] * WRITE_TRIES
    desk.committer.add(lines_with_rows(0), hurry=True)
    with pytest.raises(StorageError, match=r"not durable after 0\.1 s"):
        desk.committer.flush(limit_s=0.1)
    desk.committer.close()
    assert desk.lines() == b""


def test_a_journal_of_a_real_plan(tmp_path, monkeypatch):
    plan = make_plan(tmp_path)
    fd = plan.store.create_growing("journal/0-1-0.jsonl")
    os.close(plan.store.create_growing("segments/0-1-0-0"))
    committer = Committer(FileJournal(fd, "journal", plan.store.sync), lambda: None)
    committer.add(lines_with_rows(0), hurry=True)
    committer.flush()
    committer.close()
    os.close(fd)
    assert plan.store.entries("journal")[0].size == len(lines_with_rows(0)[0].data)


def test_much_that_waits_is_committed_at_once_and_holds_up_more(desk, monkeypatch):
    monkeypatch.setattr(module, "BACKLOG", 3)
    going, held = threading.Event(), threading.Event()
    sync = desk.committer._journal._sync

    def slow(segment):
        going.set()
        assert held.wait(30)
        sync(segment)

    desk.committer._journal._sync = slow
    monkeypatch.setattr(module, "INTERVAL_S", 3600.0)  # none is due
    desk.committer.add(lines_with_rows(0, 1, 2, 3))
    assert going.wait(30)
    desk.committer.add(lines_with_rows(*range(4, 10)))
    assert not desk.committer.is_behind
    desk.committer.add(lines_with_rows(10))
    assert desk.committer.is_behind
    held.set()
    desk.committer.flush()
    assert not desk.committer.is_behind
    assert [parse(each.data).ordinal for each in desk.committer.committed] == list(range(11))
