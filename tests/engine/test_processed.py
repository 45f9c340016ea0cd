# SPDX-License-Identifier: Apache-2.0
"""Only new files: a run leaves out what earlier successful runs of its step have processed."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_parallelrun.datasets import DatasetInput, FileDataset, ListedFile
from airflow_parallelrun.engine import processed
from airflow_parallelrun.engine.ledger import Ledger
from airflow_parallelrun.engine.node import Node
from airflow_parallelrun.engine.object_store import store_at
from airflow_parallelrun.engine.redrive import RedriveRequest, redrive
from airflow_parallelrun.engine.reduce import reduce
from airflow_parallelrun.engine.rounds import read_seal
from airflow_parallelrun.engine.split import split
from airflow_parallelrun.engine.steps import StepRun
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EmptyInputError,
    InvalidValueError,
    NothingNewError,
    StorageError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import Job

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.split import RunRequest

SCRIPT = """
def run(mini_batch):
    names = [os.path.basename(path) for path in mini_batch]
    flags = os.listdir({flags!r})
    for name in names:
        if f"fail-{{name}}" in flags:
            raise ValueError("broken picture")
    return [name for name in names if f"omit-{{name}}" not in flags]
"""


@dataclass
class Step:
    """A step over a growing folder."""

    job: Job
    runs: int = 0
    values: dict[str, Any] = field(default_factory=dict)

    def request(self, **changes: Any) -> RunRequest:
        self.runs += 1
        name = f"run-{self.runs}"
        inputs = (FileDataset.from_files("input", only_new=True).as_mount(),)
        given = {"inputs": inputs, "output": None, "storage_root": "root", "owner": f"nightly/{name}/predict"}
        settings = {
            "process_count_per_node": 1,
            "error_threshold": 9,
            "run_max_try": 1,
            **self.values,
            **changes,
        }
        own = {name: settings.pop(name) for name in ("force", "step_run") if name in settings}
        request = self.job.request(**{**given, **settings})
        return replace(
            request, **{"step_run": StepRun("nightly", name, "predict"), "allow_reuse": True, **own}
        )

    def run(self, *flags: str, **changes: Any) -> list[str]:
        """Have a run whose script finds these flags, and return its rows."""
        self.tell(*flags)
        return self.finish(split(self.request(**changes)))

    def tell(self, *flags: str) -> None:
        folder = self.job.folder / "flags"
        for path in folder.iterdir():
            path.unlink()
        for flag in flags:
            (folder / flag).touch()

    def finish(self, plan: Plan) -> list[str]:
        self.job.plan = plan
        for index in range(plan.node_count):
            Node(plan.run_dir, index).run()
        result = reduce(plan.run_dir)
        assert result.output_file is not None
        return Path(result.output_file).read_text().split()

    def has_nothing_new(self, **changes: Any) -> None:
        with pytest.raises(NothingNewError):
            split(self.request(**changes))

    @property
    def folder(self) -> Path:
        return self.job.folder / "root" / "processed" / "nightly" / "predict"

    def records(self) -> list[Path]:
        return sorted((self.folder / "runs").glob("*"))


@pytest.fixture
def step(job: Job) -> Step:
    made = Step(job.files(2))
    (job.folder / "flags").mkdir()
    job.split(SCRIPT.format(flags=str(job.folder / "flags")))
    return made


def test_each_run_gets_what_was_not_there_before(step):
    assert step.run() == ["00000", "00001"]
    with pytest.raises(
        NothingNewError, match=r"nothing new in \S*input'?: earlier .* have processed all 2 files"
    ):
        split(step.request())
    step.job.files(4)
    os.utime(step.job.folder / "input" / "00000", (1, 1))  # files() has written them all anew
    (step.job.folder / "input" / "00001").write_text("longer")
    assert step.run() == ["00000", "00001", "00002", "00003"]
    (step.job.folder / "input" / "00004").write_text("4")
    assert step.run() == ["00004"]
    step.has_nothing_new()
    for path in (step.job.folder / "input").iterdir():
        path.unlink()
    with pytest.raises(NothingNewError, match="have processed what was there"):
        split(step.request())


def test_it_needs_a_place_to_keep_that(step):
    for change in ({"storage_root": None, "output": "output"}, {"step_run": None, "output": "output"}):
        with pytest.raises(ConfigurationError, match=r"only_new needs a storage root.*--run-directory-root"):
            split(step.request(**change))


def test_an_input_that_was_always_empty_is_a_mistake(step):
    nothing = FileDataset.from_files("input/*.none", only_new=True).as_mount()
    with pytest.raises(EmptyInputError):
        split(step.request(inputs=(nothing,)))


def test_another_step_has_processed_nothing(step):
    step.run()
    assert step.run(step_run=StepRun("nightly", "run-2", "other")) == ["00000", "00001"]


def test_a_run_that_failed_has_processed_nothing(step):
    with pytest.raises(Exception, match="broken picture"):
        step.run("fail-00001", error_threshold=0)
    assert step.records() == []
    assert step.run() == ["00000", "00001"]


def test_what_failed_or_came_back_short_is_offered_again(step):
    step.job.files(4)
    assert step.run("fail-00001", "omit-00002") == ["00000", "00003"]
    assert step.run("fail-00001") == ["00002"]
    assert step.run() == ["00001"]
    step.has_nothing_new()


def test_a_mini_batch_with_one_that_failed_is_offered_again_as_a_whole(step):
    step.job.files(4)
    assert step.run("fail-00001", mini_batch_size=2) == ["00002", "00003"]
    assert step.run(mini_batch_size=2) == ["00000", "00001"]


def test_of_a_bisected_mini_batch_only_what_failed_is_offered_again(step):
    step.job.files(4)
    settings = {"mini_batch_size": 4, "bisect_failures": True}
    assert step.run("fail-00001", **settings) == ["00000", "00002", "00003"]
    assert step.run(**settings) == ["00001"]


def test_a_redrive_adds_what_it_has_mended(step):
    step.tell("fail-00001")
    request = step.request()
    plan = split(request)
    step.finish(plan)
    step.tell()
    step.finish(redrive(plan.run_dir, RedriveRequest("nightly/run-9/predict", request.config, (), None)).plan)
    assert len(step.records()) == 2
    step.has_nothing_new()


def test_a_run_that_is_cleared_does_again_what_it_did(step):
    step.run()
    (step.job.folder / "input" / "00002").write_text("2")
    again = replace(
        step.request(), owner="nightly/run-1/predict", step_run=StepRun("nightly", "run-1", "predict")
    )
    assert step.finish(split(again)) == ["00000", "00001", "00002"]
    step.has_nothing_new()


def test_a_run_that_is_cleared_and_fails_then_has_processed_nothing(step):
    step.run()
    again = replace(
        step.request(), owner="nightly/run-1/predict", step_run=StepRun("nightly", "run-1", "predict")
    )
    plan = split(replace(again, config=replace(again.config, error_threshold=0)))
    step.tell("fail-00001")
    with pytest.raises(Exception, match="broken picture"):
        step.finish(plan)
    assert step.run() == ["00000", "00001"]
    step.has_nothing_new()


def test_a_reduce_that_is_repeated_leaves_the_same_word(step):
    step.run()
    before = {path: path.read_bytes() for path in step.records()}
    reduce(step.job.plan.run_dir)
    assert {path: path.read_bytes() for path in step.records()} == before


def test_a_reduce_that_was_killed_before_is_repeated(step, monkeypatch):
    class PulledError(BaseException):
        pass

    def pull(*_: Any, **__: Any) -> None:
        raise PulledError

    with monkeypatch.context() as patched:
        patched.setattr(processed, "_write", pull)
        with pytest.raises(PulledError):
            step.run()
    assert step.records() == []
    reduce(step.job.plan.run_dir)
    step.has_nothing_new()


def test_force_processes_everything_again(step):
    step.run()
    assert step.run(force=True) == ["00000", "00001"]
    step.has_nothing_new()


def test_two_runs_at_once_both_get_what_is_new(step):
    """The known limitation, said in the docs."""
    first, second = split(step.request()), split(step.request())
    assert step.finish(first) == step.finish(second) == ["00000", "00001"]
    step.has_nothing_new()


def test_no_earlier_result_stands_for_nothing_new(step):
    from airflow_parallelrun.engine.reuse import split_or_reuse

    told: list[str] = []
    step.finish(split_or_reuse(step.request(), told.append))
    with pytest.raises(NothingNewError):
        split_or_reuse(step.request(), told.append)
    assert told == ["Nothing is reused: only new files are processed."]
    assert not (step.job.folder / "root" / "reuse").exists()


def test_beside_an_input_that_is_read_each_time(step):
    (step.job.folder / "always").mkdir()
    (step.job.folder / "always" / "a").touch()
    inputs = (
        FileDataset.from_files("always").as_mount(),
        FileDataset.from_files("input", only_new=True).as_mount(),
    )
    assert step.run(inputs=inputs) == ["a", "00000", "00001"]
    assert step.run(inputs=inputs) == ["a"]
    inputs = inputs[:1]
    assert step.run(inputs=inputs) == ["a"]  # what is not asked for is not recorded either
    assert len(step.records()) == 1


def test_a_file_of_two_inputs_must_have_succeeded_in_both(step):
    step.job.files(2)
    script = step.job.folder / "source" / "score.py"
    script.write_text(
        script.read_text()
        .replace(
            "def run(mini_batch):", "def run(mini_batch, context):\n    number = context.minibatch_index"
        )
        .replace('f"fail-{name}"', 'f"fail-{number}"')
    )
    one = FileDataset.from_files("input", only_new=True).as_mount()
    assert step.run("fail-3", inputs=(one, one)) == ["00000", "00001", "00000"]
    assert step.run(inputs=(one, one)) == ["00001", "00001"]


def test_partition_keys_deal_out_what_is_new(step):
    for user in ("ann", "bob"):
        (step.job.folder / "input" / user).mkdir()
        (step.job.folder / "input" / user / "x").touch()
    data = FileDataset.from_files("input/*/*", partition_format="{user}/*", only_new=True).as_mount()
    changes = {"inputs": (data,), "partition_keys": ["user"], "mini_batch_size": None}
    assert step.run(**changes) == ["x", "x"]
    (step.job.folder / "input" / "bob" / "y").touch()
    assert step.run(**changes) == ["y"]


def test_in_an_object_store(step, object_store):
    object_store.write("in/a", b"1")
    inputs = (FileDataset.from_files(f"{object_store.url}/in", only_new=True).as_direct(),)
    changes = {"storage_root": f"{object_store.url}/root", "output": "first", "inputs": inputs}
    assert step.run(**changes) == ["a"]
    object_store.write("in/b", b"2")
    assert step.run(**{**changes, "output": "second"}) == ["b"]
    step.has_nothing_new(**{**changes, "output": "third"})
    object_store.write("in/a", b"3")
    assert step.run(**{**changes, "output": "fourth"}) == ["a"]


# How it is asked for.


def test_it_is_part_of_the_dataset():
    dataset = FileDataset.from_files("in", only_new=True)
    made = dataset.as_named_input("files")
    assert made.only_new
    assert DatasetInput.from_dict(made.to_dict()) == made
    assert "only_new" not in FileDataset.from_files("in").as_mount().to_dict()
    with pytest.raises(InvalidValueError, match="only_new must be True or False"):
        FileDataset.from_files("in", only_new="yes")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="only_new"):
        DatasetInput.from_dict({"type": "tabular", "paths": ["in"], "mode": "direct", "only_new": True})


# The records.

FILES = st.lists(
    st.builds(
        ListedFile,
        st.sampled_from(["/a", "/b", "/c\udcff", "abfs://x@y/z"]),
        st.integers(0, 3),
        st.sampled_from([None, 1, 2]),
        st.sampled_from([None, '"1"', '"2"']),
    ),
    max_size=30,
)


def known_by(file: ListedFile) -> tuple[Any, ...]:
    return file.path, file.size, file.mtime_ns if file.etag is None else file.etag


@given(FILES, FILES)
def test_exactly_what_is_not_known_is_new(before, now):
    import numpy as np

    digests = [processed.digest_of(*file) for file in before]
    known = processed.Processed(np.sort(np.array(digests, dtype="S16")))
    expected = [file for file in now if known_by(file) not in set(map(known_by, before))]
    assert list(known.new(now)) == expected
    assert known.left_out == len(now) - len(expected)


def write_records(folder: Path, runs: Sequence[Sequence[int]]) -> None:
    """Leave a record for each run, of files with these numbers, as their reduce would have."""
    import numpy as np

    store = store_at(str(folder))
    for place, numbers in enumerate(runs):
        digests = np.sort(np.array([digest(number) for number in numbers], dtype="S16"))
        name = f"runs/20260101T{place:06d}Z-0000-0-{processed._mark(f'owner-{place}')}"
        processed._write(store, name, digests, run=f"run-{place}")
        processed._merge(store)


def digest(number: int) -> bytes:
    return processed.digest_of(*listed(number))


def listed(number: int) -> ListedFile:
    return ListedFile(f"/in/{number}", number, number, None)


def test_many_records_are_merged_and_say_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(processed, "_MERGED_AT_ONCE", 4)
    shuffle = random.Random(7)
    numbers = list(range(0, 1_000, 2))
    shuffle.shuffle(numbers)
    runs = 50  # enough to merge what was merged
    write_records(tmp_path, [numbers[place::runs] for place in range(runs)])
    merged = sorted(path.name for path in (tmp_path / "merged").iterdir())
    assert {name[:2] for name in merged} == {"1-", "2-"}
    assert len(list(processed._read_live(store_at(str(tmp_path))))) < 8 + 8 + 2
    everything = [listed(number) for number in range(1_000)]
    found = processed.read(str(tmp_path), "another")
    assert [file.size for file in found.new(everything)] == list(range(1, 1_000, 2))
    # One of the latest runs does not count for itself.
    own = {numbers[place] for place in range(len(numbers)) if place % runs == runs - 1}
    found = processed.read(str(tmp_path), f"owner-{runs - 1}")
    assert {file.size for file in found.new(everything) if file.size % 2 == 0} == own


def test_two_that_merge_at_once_make_the_same(tmp_path):
    write_records(tmp_path, [[place] for place in range(63)])
    store = store_at(str(tmp_path))
    import numpy as np

    name = f"runs/20260101T000063Z-0000-0-{processed._mark('owner-63')}"
    processed._write(store, name, np.array([digest(63)], dtype="S16"), run="run-63")
    processed._merge(store)
    first = {path.name: path.read_bytes() for path in (tmp_path / "merged").iterdir()}
    for path in (tmp_path / "merged").iterdir():
        path.unlink()
    processed._merge(store)
    assert {path.name: path.read_bytes() for path in (tmp_path / "merged").iterdir()} == first
    assert len(first) == 1


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data.replace(b'"format_version": 1', b'"format_version": 2')],
)
def test_a_record_that_cannot_be_read_is_told(step, damage):
    step.run()
    (path,) = step.records()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageError, match="is no list of 2 files in format_version 1"):
        split(step.request())


def test_records_that_cannot_be_merged_fail_no_run(step, monkeypatch, caplog):
    def refuse(store: Any) -> None:
        raise StorageError(store.root, "no space left")

    monkeypatch.setattr(processed, "_merge", refuse)
    assert step.run() == ["00000", "00001"]
    assert "records of processed files are not merged: " in caplog.text
    step.has_nothing_new()


def test_nothing_is_recorded_where_nothing_succeeded(step):
    plan = split(step.request())
    Node(plan.run_dir, 0).run()
    reduce(plan.run_dir)
    (path,) = step.records()
    path.unlink()
    ledger = Ledger(plan)  # in which nothing is known of any mini-batch
    processed.record(plan, ledger, read_seal(plan.store, 0).round)
    assert step.records() == []
