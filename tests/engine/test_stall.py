# SPDX-License-Identifier: Apache-2.0
"""progress_update_timeout: a job in which nothing is finished any more is given up, and says where."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
from workbench import make_config, make_plan

from airflow_parallelrun.engine import session, stall
from airflow_parallelrun.engine.control import Control
from airflow_parallelrun.engine.stall import StallWatch
from airflow_parallelrun.exceptions import UnprocessedError

HANGS = """
    import time
    def run(mini_batch):
        called(mini_batch)
        if mini_batch[0].endswith("00002"):
            time.sleep(600)  # here it hangs
        return [os.path.basename(path) for path in mini_batch]
"""


def test_a_job_that_stands_still_is_aborted_and_says_what_it_was_doing(job):
    job.files(6).split(HANGS, progress_update_timeout=2, process_count_per_node=2)
    result = job.node()
    assert result.outcome == "aborted"
    assert "progress_update_timeout is 2: process00" in result.message
    place = next(n for n, line in enumerate((job.folder / "source/score.py").read_text().splitlines(), 1)
                 if "here it hangs" in line)  # fmt: skip
    assert "has been in run() of mini-batch 2 for " in result.message
    assert f"(score.py, line {place}, in run), process00" in result.message
    assert "is idle; their stacks are in " in result.message
    stacks = Path(result.message.rpartition("their stacks are in ")[2])
    assert any("in run" in path.read_text() for path in stacks.iterdir())
    with pytest.raises(UnprocessedError) as caught:
        job.reduce()
    assert 2 in caught.value.ordinals  # and one that was done just before it, and not yet reported, may be
    assert f"node 0-1 aborted: {result.message}" in str(caught.value)
    assert str(job.output / "logs") in str(caught.value)


def test_what_was_finished_before_it_stood_still_is_kept(job):
    job.files(6).split(HANGS, progress_update_timeout=1, process_count_per_node=1)
    job.node()
    job.node()  # again, in a new round: only what is left
    assert (job.calls()["00000"], job.calls()["00002"]) == (1, 2)


def test_what_others_finish_counts(job, monkeypatch):
    """The other node is made of its news alone."""
    monkeypatch.setattr(session, "CONTROL_INTERVAL_S", 0.1)
    monkeypatch.setattr(stall, "NEWS_S", 0.0)
    look, done = Control.look, itertools.count()
    script = "import time\ndef run(mini_batch): time.sleep(3); return mini_batch\n"
    job.files(2).split(script, progress_update_timeout=2, process_count_per_node=2, node_count=2)
    with monkeypatch.context() as patch:
        patch.setattr(Control, "look", lambda self: look(self)._replace(done=next(done)))
        assert job.node(0).outcome == "finished"


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stall, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def watch(tmp_path, clock, nodes=1, limit=60):
    """A watch, and how to look at it after some seconds."""
    config = make_config(progress_update_timeout=limit, node_count=nodes)
    watched = StallWatch(make_plan(tmp_path, config=config, node_count=nodes))

    def after(seconds, finished, outstanding=1):
        clock.now += seconds
        return watched.reasons(finished, [], outstanding)

    return after


def test_each_finished_mini_batch_starts_the_time_anew(tmp_path, clock):
    after = watch(tmp_path, clock)
    assert [after(59, finished) for finished in range(100)] == [[]] * 100
    assert after(59, 99) == []
    assert after(1, 99) == [
        "no mini-batch was finished for 60 s, progress_update_timeout is 60: no process is running"
    ]


def test_a_node_with_nothing_to_do_waits_for_others_without_an_end(tmp_path, clock):
    after = watch(tmp_path, clock)
    assert after(0, 7) == after(1000, 7, outstanding=0) == after(59, 7) == []
    assert after(60, 7)


def test_news_of_other_nodes_may_take_their_time(tmp_path, clock):
    after = watch(tmp_path, clock, nodes=2)
    assert after(0, 7) == after(60, 7) == []
    assert after(stall.NEWS_S, 7)


def test_without_the_setting_there_is_no_such_limit(tmp_path, clock):
    after = watch(tmp_path, clock, limit=None)
    assert after(0, 7) == after(10**9, 7) == []
