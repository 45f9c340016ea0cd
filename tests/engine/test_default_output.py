# SPDX-License-Identifier: Apache-2.0
"""An output folder that nobody asked for: one for each run, in the storage root."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_parallelrun.engine.split import split
from airflow_parallelrun.engine.steps import StepRun, path_part
from airflow_parallelrun.exceptions import InvalidValueError

RUN = StepRun("nightly", "manual__2026-01-02T03:04:05+00:00", "predict")


def test_each_run_has_a_folder_of_its_own(job, echo):
    job.files(2).split(echo)
    request = replace(job.request(output=None, storage_root="root"), step_run=RUN)
    job.plan = split(request)
    result = job.run()
    folder = job.folder / "root" / "outputs" / RUN.dag / RUN.run / RUN.step
    assert result.output_file == str(folder / "parallel_run_step.txt")
    assert Path(result.output_file).read_text() == "00000\n00001\n"
    assert Path(job.plan.run_dir).parent == job.folder / "root"
    assert split(request).output == str(folder)  # the same when it is tried again
    other = replace(request, owner="test/2", step_run=replace(RUN, run="manual__2"))
    assert split(other).output == str(folder.parents[1] / "manual__2" / "predict")


def test_summary_only_has_none_unless_it_is_given_one(job, echo):
    job.files(1).split(echo)
    request = job.request(output=None, storage_root="root", output_action="summary_only")
    assert split(replace(request, step_run=RUN)).output is None


def test_it_must_not_lie_among_the_input(job, echo):
    job.files(1).split(echo)
    request = replace(job.request(output=None, storage_root="input"), step_run=RUN)
    with pytest.raises(InvalidValueError, match="output must be outside the input folder"):
        split(request)


def test_what_runs_leave_is_no_code(job, echo):
    code = job.files(1).split(echo).plan.code_sha256
    request = replace(job.request(output=None, storage_root="source/root"), step_run=RUN)
    job.plan = split(request)
    job.run()
    assert split(request).code_sha256 == code
    assert split(job.request(output="elsewhere", storage_root="source/root")).code_sha256 == code


@pytest.mark.parametrize("output", ["", " "])
def test_an_empty_path_is_no_output(job, echo, output):
    with pytest.raises(InvalidValueError, match="output must be the path of a folder"):
        job.files(1).split(echo, output=output, storage_root="root")


@pytest.mark.parametrize(
    "root", ["/mnt/root", "/mnt/root/", "abfs://store@container/root", "abfs://store@container/root/"]
)
def test_a_root_may_be_a_folder_or_a_url(root):
    assert StepRun("d", "r", "s").output(root) == f"{root.rstrip('/')}/outputs/d/r/s"


@pytest.mark.parametrize("text", ["nightly", "manual__2026-01-02T03:04:05+00:00", "a.b-c_d"])
def test_what_airflow_calls_things_stays_as_it_is(text):
    assert path_part(text) == text


@given(st.text(), st.text())
def test_any_text_is_one_part_of_a_path_and_no_other_texts(first, second):
    part = path_part(first)
    assert "/" not in part
    assert part not in ("", ".", "..")
    assert not part.startswith(".")
    assert 0 < len(part) < 256
    assert (part == path_part(second)) == (first == second)
