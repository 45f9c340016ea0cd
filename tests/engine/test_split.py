# SPDX-License-Identifier: Apache-2.0
"""R3: chunks are small and even; and what split refuses before anything starts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from workbench import make_config

from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.engine.split import RunRequest, chunk_starts, split
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EmptyInputError,
    EntryScriptContractError,
    EntryScriptNotFoundError,
    InputNotFoundError,
    InvalidValueError,
    NotSupportedError,
    OutputOwnedError,
    StorageError,
)
from airflow_parallelrun.parameters import PipelineParameter

# A loaded machine is slow; no example may fail for that.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
WEIGHTS = st.lists(st.integers(1, 2**40), min_size=1, max_size=3000)


def chunks_of(weights, processes):
    """The chunks as slices of the weights."""
    starts = chunk_starts(weights, 64 * processes)
    return starts, [
        weights[start:end] for start, end in zip(starts, [*starts[1:], len(weights)], strict=True)
    ]


@STEADY
@given(WEIGHTS, st.integers(1, 64))
@example([1] * 3000, 1)
@example([2**40] + [1] * 2999, 1)
def test_chunks_cover_everything_in_order_within_the_limits(weights, processes):
    starts, chunks = chunks_of(weights, processes)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert [weight for chunk in chunks for weight in chunk] == weights
    assert all(1 <= len(chunk) <= 1000 for chunk in chunks)
    limit = sum(weights) / (64 * processes)
    assert all(sum(chunk) <= limit for chunk in chunks if len(chunk) > 1)


@STEADY
@given(WEIGHTS, st.integers(1, 64))
def test_chunks_are_no_smaller_than_they_must_be(weights, processes):
    _, chunks = chunks_of(weights, processes)
    limit = sum(weights) / (64 * processes)
    for one, following in pairwise(chunks):
        assert len(one) == 1000 or sum(one) + following[0] > limit


@pytest.mark.parametrize("count", [20_000, 20_001, 50_000])
@pytest.mark.parametrize("processes", [1, 1000])
def test_there_are_never_more_than_20000_chunks(count, processes):
    starts, chunks = chunks_of([1] * count, processes)
    assert len(starts) <= 20_000
    assert sum(map(len, chunks)) == count
    assert max(map(len, chunks)) <= 1000


def test_a_huge_plan_keeps_the_number_of_chunks():
    weights = [1] * 100_000 + [10**9] * 10
    assert len(chunk_starts(weights, 64 * 2000)) <= 20_000


def test_few_mini_batches_are_claimed_one_by_one():
    assert chunk_starts([5] * 8, 64 * 4) == list(range(8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"entry_script": "other.py"}, EntryScriptNotFoundError, "no entry script 'other.py'"),
        ({"source_directory": "nowhere"}, InvalidValueError, "an existing folder"),
        ({"mini_batch_size": "10KB"}, InvalidValueError, "files are counted, not sized"),
        ({"node_count": PipelineParameter("nodes", 2)}, ConfigurationError, "no value yet: node_count"),
        ({"output": "gs://bucket/x"}, NotSupportedError, "folder that all nodes share"),
        ({"output": None}, InvalidValueError, "a folder when output_action is append_row"),
        ({"inputs": ()}, InvalidValueError, "at least one dataset"),
        ({"inputs": (FileDataset.from_files("gone").as_mount(),)}, InputNotFoundError, "gone"),
        ({"inputs": (FileDataset.from_files("empty").as_mount(),)}, EmptyInputError, "empty"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refused_before_anything_exists(job, echo, change, error, message):
    (job.folder / "empty").mkdir()
    job.files(1)
    with pytest.raises(error, match=message):
        job.split(echo, **change)
    assert not job.output.exists()


@pytest.mark.parametrize(
    ("source", "line"), [("def run(batch:\n", "line 1"), ("x = 1\nreturn\n = 2", "line 3"), ("a\0b", "null")]
)
def test_a_script_that_is_not_python_is_refused(job, source, line):
    job.files(1)
    (job.folder / "source").mkdir()
    (job.folder / "source" / "score.py").write_text(source)
    with pytest.raises(EntryScriptContractError, match=f"score.py: is not valid Python.*{line}"):
        split(job.request())


def test_without_a_source_directory_the_scripts_folder_is_frozen(job, echo):
    job.files(2).split(echo)
    request = job.request(source_directory=None, entry_script="source/score.py")
    assert split(request).entry_script == "score.py"


def test_home_is_expanded_and_relative_paths_are_relative_to_the_base(job, echo, monkeypatch):
    monkeypatch.setenv("HOME", str(job.folder))
    job.files(1).split(echo)
    plan = split(job.request(source_directory="~/source", output="~/elsewhere"))
    assert plan.output == str(job.folder / "elsewhere")


def test_every_split_has_a_run_directory_of_its_own(job, echo):
    first = job.files(1).split(echo).plan
    second = job.split(echo).plan
    assert first.run_dir != second.run_dir
    assert first.plan_id != second.plan_id
    assert Path(first.run_dir).parent == Path(second.run_dir).parent == job.output / ".parallelrun"


def test_run_directories_go_to_the_storage_root(job, echo):
    plan = job.files(1).split(echo, storage_root="runs").plan
    assert Path(plan.run_dir).parent == job.folder / "runs"


def test_a_path_counts_once_in_a_dataset_and_once_in_each_input(job, echo):
    job.files(3)
    twice = FileDataset.from_files(["input", "input/00001"]).as_mount()
    assert job.split(echo, inputs=(twice,)).plan.items == 3
    assert split(replace(job.request(), inputs=(twice, twice))).items == 6


def test_a_store_where_two_can_win_is_refused(job, echo, monkeypatch):
    monkeypatch.setattr("airflow_parallelrun.engine.store.Store.create_exclusive", lambda *_: True)
    with pytest.raises(StorageError, match="two writers could create the same object"):
        job.files(1).split(echo, storage_root="runs", output=None, output_action="summary_only")


def test_an_owned_output_is_refused_before_a_run_directory_is_made(job, echo):
    job.files(1).split(echo)
    before = sorted(path.name for path in (job.output / ".parallelrun").iterdir())
    with pytest.raises(OutputOwnedError, match=r"test/1"):
        job.split(echo, owner="test/2")
    assert sorted(path.name for path in (job.output / ".parallelrun").iterdir()) == before


def test_request_defaults():
    request = RunRequest(make_config(), (), None, "me")
    assert (request.arguments, request.base_directory, request.storage_root) == ((), ".", None)


def test_what_the_arguments_say_to_the_originals_driver_is_in_the_plan(job, echo, caplog):
    caplog.set_level("INFO", logger="airflow_parallelrun")
    arguments = ("--profiling_module=cProfile", "--metrics_name_prefix", "p")
    plan = job.files(1).split(echo, arguments=arguments, resource_monitor_interval=7).plan
    assert (plan.config.profiling_module, plan.config.resource_monitor_interval) == ("cProfile", 7)
    assert plan.arguments == list(arguments)
    assert "--metrics_name_prefix: without effect" in caplog.text
