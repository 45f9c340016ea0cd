# SPDX-License-Identifier: Apache-2.0
"""R10: what is published stays whole while a reduce is repeated."""

from __future__ import annotations

import pytest

from airflow_parallelrun.engine import names, ownership
from airflow_parallelrun.engine import reduce as reducing
from airflow_parallelrun.engine.rounds import seal, start_attempt
from airflow_parallelrun.engine.store import Store


def test_a_repeated_reduce_that_is_cut_short_leaves_the_result(job, echo, monkeypatch):
    job.files(2).split(echo).run()
    before = job.result()

    def cut(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(reducing, "assemble", cut)
    with pytest.raises(KeyboardInterrupt):
        job.reduce()
    assert job.result() == before
    assert job.rows() == job.names(2)


def test_a_verdict_that_is_late_by_a_hair_gives_way_to_the_newer_one(job, echo, monkeypatch):
    job.files(2).split(echo)
    publish = ownership.publish

    def overtaken(output, name, written):
        if name == ownership.RESULT:
            monkeypatch.undo()
            job.node()
            job.reduce()
        return publish(output, name, written)

    monkeypatch.setattr(ownership, "publish", overtaken)
    assert job.reduce().verdict == "succeeded"
    assert job.result()["round"] == 1
    assert job.rows() == job.names(2)


def test_a_reduce_that_loses_the_seal_to_a_frozen_one_counts_what_was_done_meanwhile(job, echo, monkeypatch):
    job.files(2).split(echo)
    start_attempt(job.plan.store, 0)
    create = Store.create_exclusive

    def frozen(store, name, data):
        if name != names.seal(0):
            return create(store, name, data)
        # This is the frozen one: it has listed the journals. Now a node works, and another reduce comes.
        monkeypatch.setattr(Store, "create_exclusive", late)
        job.node()
        job.reduce()
        return create(store, name, data)

    def late(store, name, data):
        if name == names.seal(0):
            create(store, name, b'{"journals": []}')  # the frozen one wakes up
        return create(store, name, data)

    monkeypatch.setattr(Store, "create_exclusive", frozen)
    seal(job.plan.store)
    assert job.result()["verdict"] == "succeeded"
    assert job.rows() == job.names(2)
