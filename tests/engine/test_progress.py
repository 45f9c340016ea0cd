# SPDX-License-Identifier: Apache-2.0
"""Progress is told from a thread of its own, small, and never in the way of the work."""

from __future__ import annotations

import json
import threading

from airflow_parallelrun.engine import progress as module
from airflow_parallelrun.engine.progress import Progress, Reporter

SAMPLE = Progress(4095, 99, "running", 10**9, 10**9, 10**9, 10**12, 10**12, 123456.789, 512, 1234.567)


def test_it_is_small():
    assert len(json.dumps(SAMPLE.to_dict())) < 4096


def test_it_is_told_every_interval_and_at_the_end_from_a_thread_of_its_own():
    calls, thrice = [], threading.Event()

    def report(value):
        calls.append((value, threading.current_thread()))
        if len(calls) == 3:
            thrice.set()

    reporter = Reporter(lambda: SAMPLE, report, 0.001)
    assert thrice.wait(10)
    reporter.close()
    assert {value for value, _ in calls} == {SAMPLE}
    assert threading.current_thread() not in {thread for _, thread in calls}


def test_the_last_state_is_told_though_the_interval_is_long():
    states, told = ["running"], []
    reporter = Reporter(lambda: states[-1], told.append, 3600)
    states.append("finished")
    reporter.close()
    assert told == ["finished"]


def test_a_report_that_fails_is_logged_once_and_is_tried_again(caplog):
    fivefold, calls = threading.Event(), []

    def report(value):
        calls.append(value)
        if len(calls) == 5:
            fivefold.set()
        raise RuntimeError("nobody listens")

    reporter = Reporter(lambda: SAMPLE, report, 0.001)
    assert fivefold.wait(10)
    reporter.close()
    assert [record.getMessage() for record in caplog.records] == [
        "progress cannot be reported: nobody listens"
    ]


def test_a_report_that_hangs_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(module, "CLOSE_LIMIT_S", 0.05)
    started, release = threading.Event(), threading.Event()
    reporter = Reporter(lambda: SAMPLE, lambda _: (started.set(), release.wait(30)), 0.001)
    assert started.wait(10)
    reporter.close()
    assert not release.is_set()
    release.set()
