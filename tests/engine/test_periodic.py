# SPDX-License-Identifier: Apache-2.0
"""What is done beside the work is done from a thread of its own, and is never in the way."""

from __future__ import annotations

import threading

from airflow_parallelrun.engine.periodic import Periodic


def test_it_is_done_every_interval_and_at_the_end_from_a_thread_of_its_own():
    calls, thrice = [], threading.Event()

    def call():
        calls.append(threading.current_thread())
        if len(calls) == 3:
            thrice.set()

    periodic = Periodic("calls", call, 0.001)
    assert thrice.wait(10)
    periodic.close()
    assert {thread.name for thread in calls} == {"calls"}
    done = len(calls)
    periodic.close()
    assert len(calls) == done


def test_the_last_state_is_told_though_the_interval_is_long():
    states, told = ["running"], []
    periodic = Periodic("calls", lambda: told.append(states[-1]), 3600)
    states.append("finished")
    periodic.close()
    assert told == ["finished"]


def test_it_may_begin_at_once():
    told, once = [], threading.Event()
    periodic = Periodic("calls", lambda: (told.append(1), once.set()), 3600, at_once=True)
    assert once.wait(10)
    periodic.close()
    assert told == [1, 1]


def test_a_call_that_fails_is_logged_once_and_is_made_again(caplog):
    fivefold, calls = threading.Event(), []

    def call():
        calls.append(1)
        if len(calls) == 5:
            fivefold.set()
        raise RuntimeError("nobody listens")

    periodic = Periodic("progress", call, 0.001)
    assert fivefold.wait(10)
    periodic.close()
    assert [record.getMessage() for record in caplog.records] == [
        "progress cannot be reported: nobody listens"
    ]


def test_a_call_that_hangs_does_not_hold_up_the_end():
    started, release = threading.Event(), threading.Event()
    periodic = Periodic("calls", lambda: (started.set(), release.wait(30)), 0.001)
    assert started.wait(10)
    periodic.close(0.05)
    assert not release.is_set()
    release.set()
