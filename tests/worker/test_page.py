# SPDX-License-Identifier: Apache-2.0
"""R7: the page says what a process is doing, also when it is read in the middle of a write."""

from __future__ import annotations

import multiprocessing
import os
import struct
import time

import pytest

from airflow_parallelrun.worker import page
from airflow_parallelrun.worker.page import Page, PageState, last_state


def open_page(path):
    """Map the page in a file; one that is new is made."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, page.SIZE)
        return Page(fd)
    finally:
        os.close(fd)


@pytest.fixture
def pages(tmp_path):
    """The same page, mapped twice, as node and worker have it."""
    path = str(tmp_path / "page")
    both = open_page(path), open_page(path)
    yield both
    for each in both:
        each.close()


def test_what_one_writes_the_other_reads(pages):
    worker, node = pages
    before = time.monotonic_ns()
    worker.write(page.RUN, ordinal=2**40, feed=7)
    state = node.read()
    assert state[:3] == (page.RUN, 2**40, 7)
    assert before <= state.start_ns <= time.monotonic_ns()
    worker.write(page.IDLE)
    assert node.read()[:3] == (page.IDLE, -1, -1)


def test_a_new_page_is_idle(pages):
    assert pages[1].read() == PageState(page.IDLE, 0, 0, 0)


def test_it_outlives_the_process_in_its_file(pages, tmp_path):
    pages[0].write(page.RUN, 5, 3)
    assert last_state((tmp_path / "page").read_bytes()) == pages[1].last() == pages[1].read()


def test_a_write_under_way_is_not_read_and_who_dies_in_it_ran_nothing(pages):
    worker, node = pages
    worker.write(page.RUN, 5, 3)
    (sequence,) = struct.unpack_from("=q", worker._map)
    struct.pack_into("=q", worker._map, 0, sequence + 1)
    assert node.read() is None
    assert node.last()[:3] == (page.IDLE, -1, -1)
    node.write(page.IDLE)  # what the node leaves behind is whole again
    assert worker.read()[:3] == (page.IDLE, -1, -1)


def test_what_is_revoked_stays_revoked(pages):
    worker, node = pages
    assert not worker.revoked(0)
    node.revoke(5)
    assert [worker.revoked(feed) for feed in (0, 4, 5, 6)] == [True, True, False, False]
    worker.write(page.RUN, 9, 9)
    node.revoke(300)
    assert [worker.revoked(feed) for feed in (0, 4, 299, 300)] == [True, True, True, False]
    assert node.read()[:3] == (page.RUN, 9, 9)


def _write_states(path):
    shared, feed = open_page(path), 0
    while not shared.revoked(0):
        feed += 1
        shared.write(page.RUN + feed % 2, 3 * feed + 1, feed)
    shared.close()


def test_no_state_is_read_half_written(tmp_path):
    path = str(tmp_path / "page")
    shared = open_page(path)
    shared.write(page.RUN, 1, 0)
    writer = multiprocessing.get_context("spawn").Process(target=_write_states, args=(path,), daemon=True)
    writer.start()
    seen, last = set(), shared.read()
    while len(seen) < 300 and writer.exitcode is None:
        state = shared.read()
        if state is None:
            continue
        assert state.ordinal == 3 * state.feed + 1
        assert state.phase == page.RUN + state.feed % 2
        assert (state.feed, state.start_ns) >= (last.feed, last.start_ns)
        last = state
        seen.add(state.feed)
    shared.revoke(1)
    writer.join()
    assert writer.exitcode == 0
    assert shared.read() == shared.last()
    shared.close()
