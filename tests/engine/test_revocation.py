# SPDX-License-Identifier: Apache-2.0
"""Taking work back from a living process: what the node is certain of, the process never runs."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from airflow_parallelrun.engine.pool import Process
from airflow_parallelrun.engine.portions import InFlight, Portion
from airflow_parallelrun.worker import page


def _open_page(path):
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, page.SIZE)
        return page.Page(fd)
    finally:
        os.close(fd)


def _work(path, channel):
    """A worker's loop, without the work: what was fed is run or skipped, in order."""
    shared = _open_page(path)
    while (feeds := channel.recv()) is not None:
        ran, skipped = [], []
        for feed in feeds:
            shared.write(page.LOAD, feed, feed)
            if shared.revoked(feed):
                skipped.append(feed)
                continue
            shared.write(page.RUN, feed, feed)
            ran.append(feed)
        shared.write(page.IDLE)
        channel.send((ran, skipped))
    shared.close()


@pytest.fixture
def both(tmp_path):
    """The node's side of a process without the process that it would start, and a channel to a worker."""
    context = multiprocessing.get_context("spawn")
    channel, theirs = context.Pipe()
    process = Process.__new__(Process)
    process.page, process.in_flight = _open_page(tmp_path / "page"), InFlight()
    process.page.write(page.IDLE)
    worker = context.Process(target=_work, args=(str(tmp_path / "page"), theirs), daemon=True)
    worker.start()
    theirs.close()
    yield process, channel
    channel.send(None)
    worker.join()
    channel.close()
    process.page.close()
    assert worker.exitcode == 0


def one_round(process, channel, hurry):
    """Feed three times, taking back after each; return what was certain, run and skipped."""
    certain, ran, skipped = set(), set(), set()
    for _ in range(3):
        first = process.in_flight.add(Portion(0, 60))
        channel.send(list(range(first, first + 60)))
        for _ in range(hurry):
            process.page.read()
        before = set(process.in_flight)
        process.revoke()
        certain |= before - set(process.in_flight)
    for _ in range(3):
        answer = channel.recv()
        ran.update(answer[0])
        skipped.update(answer[1])
    return certain, ran, skipped


def test_what_is_certain_is_never_run(both):
    process, channel = both
    taken_back = 0
    for round_ in range(40_000):
        if round_ >= 2000 and taken_back:
            break  # on a busy machine the two seldom run at the same time
        certain, ran, skipped = one_round(process, channel, round_ % 17)
        assert not certain & ran
        assert certain <= skipped
        assert ran | skipped == certain | set(process.in_flight)
        process.in_flight.take_behind(-1)
        taken_back += len(certain)
    assert taken_back > 0
