# SPDX-License-Identifier: Apache-2.0
"""first_task_creation_timeout: a listing that takes too long ends before anything is written."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest

from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.engine import listing_limit
from airflow_parallelrun.engine.listing_limit import ListingLimit
from airflow_parallelrun.exceptions import ListingTimeoutError


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(listing_limit, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def slow(clock, count):
    """A store that takes a second for each file."""
    for number in range(count):
        clock.now += 1
        yield number


def test_the_limit_is_for_all_inputs_together(clock):
    limit = ListingLimit(10)
    assert list(limit.watch(["/a"], slow(clock, 6))) == list(range(6))
    with pytest.raises(ListingTimeoutError) as caught:
        list(limit.watch(["/b", "/c"], slow(clock, 6)))
    assert (caught.value.paths, caught.value.listed, caught.value.limit_s) == (["/b", "/c"], 10, 10)
    text = str(pickle.loads(pickle.dumps(caught.value)))
    assert "the input /b, /c took longer than 10 s (first_task_creation_timeout); 10 files were" in text
    assert "Set first_task_creation_timeout higher" in text


def test_a_listing_that_is_over_is_not_late(clock):
    assert len(list(ListingLimit(5).watch(["/a"], slow(clock, 5)))) == 5


def test_without_the_setting_nothing_is_watched(clock):
    files = slow(clock, 1000)
    assert ListingLimit(None).watch(["/a"], files) is files


def test_a_split_that_lists_for_too_long_leaves_nothing(job, echo, clock, monkeypatch):
    """The real listing, on a clock that goes on by a second whenever it is looked at."""

    def tick():
        clock.now += 1
        return clock.now

    monkeypatch.setattr(listing_limit.time, "monotonic", tick)
    inputs = (FileDataset.from_files("input").as_mount(), FileDataset.from_files("input/*").as_mount())
    with pytest.raises(ListingTimeoutError, match=r"input/\* took longer than 8 s .*; 8 files were listed"):
        job.files(5).split(echo, first_task_creation_timeout=8, inputs=inputs)
    assert not job.output.exists()
    assert job.split(echo, first_task_creation_timeout=11, inputs=inputs).plan.items == 10
