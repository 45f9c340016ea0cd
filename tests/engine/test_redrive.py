# SPDX-License-Identifier: Apache-2.0
"""Redrive: the failed and short mini-batches of a run that succeeded, once more, into the same output."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
from workbench import extent, make_config, make_line, make_plan, write_growing, write_journal

from airflow_parallelrun.config import ParallelRunConfig
from airflow_parallelrun.engine import amendment, names, ownership
from airflow_parallelrun.engine import reduce as reducing
from airflow_parallelrun.engine.amendment import HOW_IT_RUNS, amended, in_force
from airflow_parallelrun.engine.history import read_history
from airflow_parallelrun.engine.journal import Part
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.plan import read_plan
from airflow_parallelrun.engine.redrive import RedriveRequest, redrive
from airflow_parallelrun.engine.rounds import seal, sealed_rounds, start_attempt
from airflow_parallelrun.engine.standing import mini_batches_left, published_result
from airflow_parallelrun.exceptions import (
    EntryScriptContractError,
    EntryScriptInitError,
    InvalidValueError,
    NotRedrivableError,
    NotRedrivenError,
    OutputExistsError,
    StorageError,
)

# As long as a file is there: waits, raises, leaves the first item out, or does not get through init().
STEERED = """
    import sys, time
    def told(what):
        return os.path.exists(os.path.join({folder!r}, what))
    def init():
        if told("fail-init"):
            raise OSError("the weights are away")
    def run(mini_batch):
        called(mini_batch)
        names = [os.path.basename(path) for path in mini_batch]
        while any(told("hold-" + name) for name in names):
            time.sleep(0.02)
        if any(told("fail-" + name) for name in names):
            raise ValueError("broken picture")
        short = any(told("short-" + name) for name in names)
        return [" ".join([name, *sys.argv[1:]]) for name in names[short:]]
"""
# What any number of mini-batches may do.
TOLERANT = {"error_threshold": -1, "run_max_try": 1}


class Redriven:
    """A job that has succeeded with errors, and what is changed for the redrive."""

    def __init__(self, job):
        self.job = job

    def told(self, *flags):
        for flag in flags:
            (self.job.folder / flag).touch()

    def untold(self, *flags):
        for flag in flags:
            (self.job.folder / flag).unlink()

    def first(self, files, *flags, **config):
        """Run the job a first time."""
        self.told(*flags)
        script = STEERED.format(folder=str(self.job.folder))
        self.job.files(files).split(script, **{**TOLERANT, **config})
        return self.job.run()

    @property
    def plan(self):
        return self.job.plan

    def ask(self, by="test/2", fresh_code=False, arguments=None, base_directory=None, **config):
        """Ask for a redrive."""
        current = amended(self.plan, sealed_rounds(self.plan.store))
        request = RedriveRequest(
            by=by,
            config=dataclasses.replace(current.config, **config),
            arguments=tuple(current.arguments if arguments is None else arguments),
            models_root=None,
            fresh_code=fresh_code,
            base_directory=str(base_directory or self.job.folder),
        )
        return redrive(self.plan.run_dir, request)

    def nodes(self, asked):
        for index in range(asked.plan.node_count):
            self.job.node(index)

    def again(self, **given):
        """Redrive, from asking to the output."""
        self.nodes(self.ask(**given))
        return self.job.reduce()

    @property
    def rows_file(self):
        return self.job.output / "parallel_run_step.txt"

    def published(self):
        """What others see: name, content and inode of each result."""
        found = (path for path in self.job.output.iterdir() if path.is_file())
        return {path.name: (path.read_bytes(), path.stat().st_ino) for path in found}


@pytest.fixture
def redriven(job):
    return Redriven(job)


def test_what_failed_and_what_came_back_short_is_run_again_and_nothing_else(redriven):
    job = redriven.job
    first = redriven.first(10, "fail-00003", "short-00006", mini_batch_size=2)
    assert (first.verdict, first.counts.failed, first.counts.short) == ("succeeded with errors", 1, 1)
    assert job.rows() == job.names(10, without={2, 3, 6})
    before = job.calls()

    redriven.untold("fail-00003", "short-00006")
    asked = redriven.ask()
    assert (asked.mini_batches, asked.items) == (2, 4)
    redriven.nodes(asked)
    result = job.reduce()
    assert (result.verdict, result.round) == ("succeeded", 1)
    assert job.rows() == job.names(10)
    assert job.calls() - before == dict.fromkeys(("00002", "00003", "00006", "00007"), 1)
    assert not (job.output / "failed_items.jsonl").exists()
    assert job.result()["counts"]["items_failed"] == 0


def test_the_output_is_the_old_one_until_it_is_the_new_one(redriven, monkeypatch):
    job = redriven.job
    redriven.first(4, "fail-00002")
    before = redriven.published()
    assert set(before) == {"parallel_run_step.txt", "failed_items.jsonl", "job_result.json"}
    redriven.untold("fail-00002")
    redriven.nodes(redriven.ask())
    assert redriven.published() == before

    inodes = [redriven.rows_file.stat().st_ino]
    publish = ownership.publish

    def watched(output, name, written):
        published = publish(output, name, written)
        assert redriven.rows_file.read_text().splitlines() in (job.names(4, without={2}), job.names(4))
        inodes.append(redriven.rows_file.stat().st_ino)
        return published

    monkeypatch.setattr(ownership, "publish", watched)
    job.reduce()
    assert job.rows() == job.names(4)
    assert len(set(inodes)) == 2
    assert inodes == sorted(inodes, key=inodes.index)


@pytest.mark.parametrize("verdict", ["succeeded", "failed"])
def test_only_a_success_with_failures_has_something_to_redrive(redriven, verdict):
    job = redriven.job
    if verdict == "succeeded":
        redriven.first(3)
        before = redriven.published()
        asked = redriven.ask()
        assert (asked.mini_batches, asked.items, asked.plan) == (0, 0, redriven.plan)
        assert redriven.published() == before
    else:
        with pytest.raises(Exception, match="broken picture"):
            redriven.first(3, "fail-00001", error_threshold=0)
        with pytest.raises(NotRedrivableError, match="it failed: 1 items failed, error_threshold is"):
            redriven.ask()
        assert job.result()["verdict"] == "failed"
    assert redriven.plan.store.names(names.REDRIVES) == []


def test_a_run_without_a_verdict_is_to_be_finished_first(redriven):
    job = redriven.job
    script = STEERED.format(folder=str(job.folder))
    redriven.told("fail-00001")
    job.files(3).split(script, **TOLERANT)
    with pytest.raises(NotRedrivableError, match="cannot be redriven: it has no verdict yet"):
        redriven.ask()
    job.node()
    with pytest.raises(NotRedrivableError, match="it has no verdict yet"):
        redriven.ask()
    job.reduce()
    job.node()
    with pytest.raises(NotRedrivableError, match="nodes have started since its last verdict"):
        redriven.ask()


def test_a_result_that_is_not_there_is_to_be_published_first(redriven):
    redriven.first(3, "fail-00001")
    redriven.rows_file.unlink()
    with pytest.raises(NotRedrivableError, match=r"the result of its last round is not in '.*output'"):
        redriven.ask()
    redriven.job.reduce()
    assert redriven.ask().mini_batches == 1


def test_a_file_in_the_place_of_a_result_is_found_before_anything_is_run(redriven, monkeypatch):
    redriven.first(3, "fail-00001")
    result = published_result(redriven.plan)
    redriven.rows_file.unlink()
    redriven.rows_file.write_text("mine")
    monkeypatch.setattr("airflow_parallelrun.engine.redrive.published_result", lambda plan: result)
    with pytest.raises(OutputExistsError):
        redriven.ask()
    assert redriven.rows_file.read_text() == "mine"
    assert redriven.plan.store.names(names.REDRIVES) == []


def test_a_job_without_an_output_folder_is_judged_by_its_ledger(redriven):
    job = redriven.job
    given = {"output_action": "summary_only", "output": None, "storage_root": str(job.folder / "runs")}
    redriven.first(3, "fail-00001", **given)
    redriven.untold("fail-00001")
    assert redriven.again().counts.succeeded == 3
    assert job.calls() == {"00000": 1, "00001": 2, "00002": 1}
    job.folder = job.folder / "other"
    job.folder.mkdir()
    with pytest.raises(Exception, match="broken picture"):
        redriven.first(3, "fail-00001", **{**given, "error_threshold": 0})
    with pytest.raises(NotRedrivableError, match="it failed: 1 items failed"):
        redriven.ask()


# How it is run.


def test_every_field_is_either_how_it_runs_or_stays_the_plans():
    """A new field stays the plan's, until somebody has thought about it."""
    assert set(ParallelRunConfig.__dataclass_fields__) - set(HOW_IT_RUNS) == {
        "allowed_failed_count",
        "allowed_failed_percent",
        "append_row_dataframe_header",
        "append_row_file_name",
        "append_row_format",
        "append_row_order",
        "description",
        "error_threshold",
        "first_task_creation_timeout",
        "mini_batch_size",
        "model",
        "output_action",
        "partition_keys",
        "provenance_columns",
        "strict_returns",
    }


def test_what_the_ledger_and_the_output_depend_on_stays_the_plans(redriven):
    redriven.first(6, "fail-00001", "fail-00004", mini_batch_size=2, run_invocation_timeout=50)
    given = {
        "error_threshold": 0,
        "append_row_file_name": "other.txt",
        "mini_batch_size": 1,
        "run_invocation_timeout": 7,
        "node_count": 9,
        "environment_variables": {"SECRET": "x"},
    }
    plan = redriven.ask(arguments=["--top", "3"], **given).plan
    config = plan.config
    assert (config.error_threshold, config.append_row_file_name) == (-1, "parallel_run_step.txt")
    assert (config.mini_batch_size, config.run_invocation_timeout) == (2, 7)
    assert config.environment_variables == {"SECRET": "x"}
    # Two chunks have something to do.
    assert (plan.node_count, config.node_count, plan.arguments) == (2, 9, ["--top", "3"])
    assert read_plan(plan.run_dir) == redriven.plan
    for index in range(2):
        redriven.job.node(index)
    redriven.untold("fail-00001", "fail-00004")
    assert redriven.again(arguments=["--top", "4"]).verdict == "succeeded"
    rows = ["00000 --top 4", "00001 --top 4", "00002", "00003", "00004 --top 4", "00005 --top 4"]
    assert redriven.job.rows() == rows


def test_the_script_may_be_a_new_one(redriven):
    job = redriven.job
    redriven.first(4, "fail-00002")
    mended = 'import os\ndef run(mini_batch):\n    return ["new " + os.path.basename(mini_batch[0])]\n'
    (job.folder / "source" / "score.py").write_text(mended)
    assert redriven.again().counts.failed == 1  # the run's own copy
    asked = redriven.ask(fresh_code=True)
    assert asked.plan.code == names.code(asked.plan.code_sha256) != names.CODE
    redriven.nodes(asked)
    job.reduce()
    assert job.rows() == ["00000", "00001", "new 00002", "00003"]
    assert redriven.plan.store.exists(names.CODE)
    # From then on it is the run's.
    assert amended(redriven.plan, 7).code == asked.plan.code


def test_code_that_has_not_changed_is_not_copied_again(redriven):
    redriven.first(3, "fail-00001")
    assert redriven.ask(fresh_code=True).plan.code == names.CODE
    assert not [name for name in os.listdir(redriven.plan.run_dir) if name.startswith("code-")]


def test_code_that_cannot_be_used_is_found_before_anything_is_run(redriven):
    redriven.first(3, "fail-00001")
    script = redriven.job.folder / "source" / "score.py"
    script.write_text("def run(:")
    with pytest.raises(EntryScriptContractError, match="is not valid Python"):
        redriven.ask(fresh_code=True)
    with pytest.raises(InvalidValueError, match="source_directory must be an existing folder"):
        redriven.ask(fresh_code=True, base_directory=redriven.job.folder / "elsewhere")
    assert redriven.plan.store.names(names.REDRIVES) == []


def test_a_record_says_who_asked_when_and_for_what(redriven):
    redriven.first(3, "fail-00001")
    redriven.ask(by="nightly/manual__2/predict", run_max_try=5)
    record = json.loads(redriven.plan.store.read("redrives/1-1"))
    assert (record["format_version"], record["round"]) == (1, 1)
    assert record["by"] == "nightly/manual__2/predict"
    assert record["asked_at"].endswith("Z")
    assert set(record["config"]) == set(HOW_IT_RUNS)
    assert record["config"]["run_max_try"] == 5


def test_a_record_of_another_version_is_refused(redriven):
    redriven.first(3, "fail-00001")
    redriven.ask()
    store = redriven.plan.store
    record = json.loads(store.read("redrives/1-1"))
    store.put("redrives/1-1", json.dumps({**record, "format_version": 2}).encode())
    with pytest.raises(StorageError, match="has format_version 2, this version reads 1"):
        redriven.job.node()


def test_the_last_record_of_a_round_or_an_earlier_one_holds(tmp_path):
    plan = make_plan(tmp_path)
    for round_, tries in ((1, 4), (1, 5), (3, 6)):
        config = amendment.how_it_runs(make_config(run_max_try=tries))
        amendment.write(
            plan.store,
            amendment.Amendment(
                round_, "x", "now", config, [], 1, None, "score.py", names.CODE, plan.code_sha256
            ),
        )
    assert plan.store.names(names.REDRIVES) == ["1-1", "1-2", "3-1"]
    assert in_force(plan.store, 0) is None
    assert [amended(plan, round_).config.run_max_try for round_ in range(5)] == [3, 5, 5, 6, 6]


def test_records_are_counted_as_numbers(redriven):
    redriven.first(3, "fail-00001")
    for tries in range(1, 12):
        redriven.ask(run_max_try=tries)
    assert amended(redriven.plan, 1).config.run_max_try == 11


# One that is not finished, and several.


def test_a_redrive_that_nobody_has_begun_may_be_asked_for_again_by_anybody(redriven):
    redriven.first(3, "fail-00001")
    redriven.ask(by="test/2")
    redriven.untold("fail-00001")
    assert redriven.again(by="test/3").round == 1
    assert redriven.plan.store.names(names.REDRIVES) == ["1-1", "1-2"]


def test_a_redrive_that_is_under_way_is_left_to_whoever_asked_for_it(redriven):
    job = redriven.job
    redriven.first(3, "fail-00001")
    redriven.ask(by="test/2")
    job.node()
    before = redriven.published()
    with pytest.raises(NotRedrivableError, match=r"the redrive that test/2 asked for at \S+Z has not ended"):
        redriven.ask(by="test/3")
    # What has failed meanwhile is to be done again: it begins the next round.
    redriven.untold("fail-00001")
    asked = redriven.ask(by="test/2")
    assert redriven.plan.store.names(names.REDRIVES) == ["1-1", "2-1"]
    assert sealed_rounds(redriven.plan.store) == 2
    redriven.nodes(asked)
    assert redriven.published() == before
    assert job.reduce().round == 2
    assert job.rows() == job.names(3)


def test_a_redrive_that_was_cut_short_before_its_round_began_goes_on(redriven, monkeypatch):
    redriven.first(3, "fail-00001")
    redriven.ask()
    redriven.job.node()

    def killed(store):
        raise KeyboardInterrupt

    monkeypatch.setattr("airflow_parallelrun.engine.redrive.seal", killed)
    with pytest.raises(KeyboardInterrupt):
        redriven.ask()
    monkeypatch.undo()
    redriven.untold("fail-00001")
    assert redriven.again().counts.succeeded == 3
    assert redriven.plan.store.names(names.REDRIVES) == ["1-1", "2-1", "2-2"]


def test_what_is_left_after_a_redrive_can_be_redriven(redriven):
    job = redriven.job
    redriven.first(4, "fail-00001", "short-00002")
    assert (redriven.again().round, redriven.again().round) == (1, 2)
    assert job.calls() == {"00000": 1, "00001": 3, "00002": 3, "00003": 1}
    redriven.untold("fail-00001")
    assert redriven.again().counts.short == 1
    redriven.untold("short-00002")
    assert redriven.again().verdict == "succeeded"
    assert job.rows() == job.names(4)


def test_a_redrive_that_is_cut_short_is_told_and_keeps_the_output(redriven):
    """As when the new code does not get through init(): nobody has run what was to be run again."""
    job = redriven.job
    redriven.first(4, "fail-00001", "fail-00002")
    rows = job.rows()
    redriven.told("fail-init")
    redriven.ask(process_count_per_node=1)
    with pytest.raises(EntryScriptInitError, match="the weights are away"):
        job.node()
    with pytest.raises(NotRedrivenError, match=r"2 mini-batches were to be run again .* \(1, 2\)") as caught:
        job.reduce()
    assert (caught.value.count, caught.value.left) == (2, 2)
    assert "the weights are away" in str(caught.value)
    assert job.result()["verdict"] == "succeeded with errors"
    assert job.rows() == rows
    # Starting the node again is enough.
    redriven.untold("fail-init", "fail-00001")
    assert mini_batches_left(redriven.plan) == 2
    job.node()
    assert job.reduce().counts.failed == 1
    assert job.rows() == job.names(4, without={2})


def test_a_node_that_is_started_later_goes_on_as_the_redrive_asked(redriven):
    """It is what a cleared node of a redriven run does; the short ones are done again, too."""
    job = redriven.job
    redriven.first(4, "short-00001")
    redriven.again(arguments=["--redriven"])
    redriven.untold("short-00001")
    assert mini_batches_left(redriven.plan) == 1
    job.node()
    assert job.reduce().round == 2
    assert job.rows() == ["00000", "00001 --redriven", "00002", "00003"]


def test_without_a_redrive_a_short_mini_batch_stays_as_it_is(redriven):
    job = redriven.job
    redriven.first(4, "short-00001")
    redriven.untold("short-00001")
    assert mini_batches_left(redriven.plan) == 0
    job.node()
    assert job.reduce().counts.short == 1
    assert job.calls()["00001"] == 1


def test_a_worse_result_does_not_take_the_place_of_a_better_one(redriven):
    """A short one that fails now has what it came back with before; a threshold sees only the best."""
    job = redriven.job
    redriven.first(6, "short-00000", mini_batch_size=3, error_threshold=1)
    assert job.rows() == job.names(6, without={0})
    redriven.untold("short-00000")
    redriven.told("fail-00000")
    result = redriven.again()
    assert (result.verdict, result.counts.short, result.counts.items_failed) == (
        "succeeded with errors",
        1,
        1,
    )
    assert job.rows() == job.names(6, without={0})


def test_thresholds_start_afresh_and_one_that_stops_the_nodes_fails_no_job(redriven):
    job = redriven.job
    redriven.first(9, "short-00000", "short-00003", "short-00006", mini_batch_size=3, error_threshold=3)
    rows = job.rows()
    redriven.untold("short-00000", "short-00003", "short-00006")
    redriven.told("fail-00000", "fail-00003", "hold-00006")
    redriven.ask(process_count_per_node=1)
    assert job.node().outcome == "aborted"
    with pytest.raises(NotRedrivenError, match="aborted: 6 items failed, error_threshold is 3") as caught:
        job.reduce()
    assert (caught.value.ordinals, caught.value.left) == ([2], 3)
    assert (job.result()["verdict"], job.rows()) == ("succeeded with errors", rows)


# Parts of a mini-batch.


def bisected(plan, text=b"ad"):
    """A line of a mini-batch of four items, of which the outer two succeeded."""
    segment = write_growing(plan, "segments/0-1-0-0", text)
    rows = [extent(segment, place, text[place : place + 1]) for place in range(2)]
    error = {"type": "ValueError", "message": "broken", "frame": None, "traceback": "", "log": ""}
    parts = [
        Part(0, 1, "ok", 1, 1, rows[:1], None),
        Part(1, 2, "failed", 0, 0, [], error),
        Part(3, 1, "ok", 1, 1, rows[1:], None),
    ]
    return make_line(1, "short", items_in=4, items_ok=2, rows_out=2, extents=rows, parts=parts, error=error)


def test_of_a_bisected_mini_batch_the_healthy_parts_are_handed_on(tmp_path):
    plan = make_plan(tmp_path, mini_batches=4, items_each=4, output=None)
    plan = dataclasses.replace(plan, config=make_config(output_action="summary_only"))
    plan.store.put(names.PLAN, plan.to_json())
    start_attempt(plan.store, 0)
    whole = {"items_in": 4, "items_ok": 4}
    short = make_line(2, "short", items_in=4, items_ok=3)
    lines = [make_line(0, **whole), bisected(plan), short, make_line(3, "failed", items_in=4)]
    write_journal(plan, Attempt(0, 1), lines)
    seal(plan.store)
    request = RedriveRequest("test/2", plan.config, (), None)
    asked = redrive(plan.run_dir, request)
    assert (asked.mini_batches, asked.items) == (3, 2 + 4 + 4)
    history = read_history(asked.plan, start_attempt(plan.store, 0))
    assert list(history.finished) == [1, 0, 0, 0]
    assert history.partial == {1: bisected(make_plan(tmp_path / "other"))}
    assert history.total == 3


def test_without_a_redrive_a_bisected_mini_batch_is_done(tmp_path):
    plan = make_plan(tmp_path, mini_batches=2, items_each=4)
    start_attempt(plan.store, 0)
    write_journal(plan, Attempt(0, 1), [bisected(plan)])
    seal(plan.store)
    history = read_history(plan, start_attempt(plan.store, 0))
    assert (list(history.finished), history.partial) == ([0, 1], {})


def test_a_reduce_that_is_repeated_after_a_redrive_says_the_same(redriven):
    redriven.first(3, "fail-00001")
    redriven.again()
    before = redriven.published()["parallel_run_step.txt"][0]
    assert reducing.reduce(redriven.plan.run_dir).round == 1
    assert redriven.published()["parallel_run_step.txt"][0] == before


def test_of_a_bisected_mini_batch_only_the_items_that_failed_are_run_again(redriven):
    flags = ("fail-00003", "fail-00006", "fail-00011")
    first = redriven.first(15, *flags, mini_batch_size=10, bisect_failures=True)
    assert (first.counts.items_failed, first.counts.short) == (3, 2)
    before = redriven.job.calls()
    redriven.untold("fail-00003", "fail-00011")
    asked = redriven.ask()
    assert (asked.mini_batches, asked.items) == (2, 3)
    redriven.nodes(asked)
    result = redriven.job.reduce()
    assert redriven.job.calls() - before == {"00003": 1, "00006": 1, "00011": 1}
    assert redriven.job.rows() == redriven.job.names(15, without={6})
    assert (result.counts.succeeded, result.counts.short, result.counts.items_failed) == (1, 1, 1)
    (failed,) = redriven.job.failed_items()
    assert failed["item"].endswith("00006")
    redriven.untold("fail-00006")
    assert redriven.again().verdict == "succeeded"
    assert redriven.job.rows() == redriven.job.names(15)
