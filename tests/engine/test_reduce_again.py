# SPDX-License-Identifier: Apache-2.0
"""R10: what is published stays whole while a reduce is repeated."""

from __future__ import annotations

import pytest

from airflow_parallelrun.engine import reduce as reducing


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
