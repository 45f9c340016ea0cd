# SPDX-License-Identifier: Apache-2.0
"""processed_mini-batches.csv: the columns of the original, a line per result, never a reason to fail."""

from __future__ import annotations

import csv
import errno
import json
import os
from datetime import datetime
from pathlib import Path

import pytest
from workbench import extent, make_line, make_plan, make_streak, write_growing, write_journal

from airflow_parallelrun.engine import job_report
from airflow_parallelrun.engine.job_report import JobReport
from airflow_parallelrun.engine.journal import Extent, Part
from airflow_parallelrun.engine.ledger import Ledger
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.rounds import Seal

COLUMNS = [
    "Mini-batch Id", "Picked Count", "Process", "Process Start Time", "Total", "Succeeded", "Failed",
    "Elapsed Seconds", "Process Seconds", "Run Method Seconds", "Status", "Error Category", "Error Message",
    "Mini-batch Detail",
]  # fmt: skip
UNSTEADY = """
    import time
    def run(mini_batch):
        number = int(os.path.basename(mini_batch[0]))
        if number == 1:
            raise ValueError('three "quoted", words\\nin two lines')
        if number == 2:
            time.sleep(60)
        return [] if number == 3 else [number]
"""


def read(logs):
    with open(Path(logs) / "sys" / "job_report" / "processed_mini-batches.csv", newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return list(reader)


def told(plan, lines, round_=0):
    """The report of one attempt's lines."""
    seal = Seal(0, ((write_journal(plan, Attempt(0, 1), lines, round_), 1 << 20),))
    with JobReport(plan) as report:
        Ledger.read(plan, seal, told=report.add)
        report.publish()
    return read(plan.logs)


def left_over(folder):
    return [path for path in Path(folder).rglob("*") if path.name.startswith(".tmp-")]


def test_a_run_has_a_line_for_each_of_its_results(job):
    limits = {"run_max_try": 2, "run_invocation_timeout": 1, "error_threshold": 3}
    result = job.files(5).split(UNSTEADY, process_count_per_node=1, **limits).run()
    lines = sorted(read(result.logs), key=lambda line: int(line["Mini-batch Id"]))
    assert [line["Status"] for line in lines] == [
        "RUN_DONE", "RUN_EXCEPTION", "RUN_TIMEOUT", "RUN_DONE", "RUN_DONE"
    ]  # fmt: skip
    assert [line["Picked Count"] for line in lines] == ["1", "2", "2", "1", "1"]
    assert [line["Failed"] for line in lines] == ["0", "1", "1", "1", "0"]
    assert [line["Error Category"] for line in lines] == [
        "", "ValueError", "RunInvocationTimeout", "ShortReturn", ""
    ]  # fmt: skip
    assert lines[1]["Error Message"] == 'three "quoted", words\nin two lines'
    assert float(lines[2]["Run Method Seconds"]) >= 1
    assert {line["Mini-batch Detail"] for line in lines} == {'{"node": "0-1", "round": 0}'}
    assert not left_over(job.output)


def test_a_streak_has_the_lines_that_its_mini_batches_would_have(tmp_path):
    streak = make_streak(1, [b"a\n"] * 4, run_us=[1, 999_999, 1_000_000, 3_600_000_001], without=[2])
    single = told(make_plan(tmp_path / "single"), list(streak.lines()))
    assert [line["Mini-batch Id"] for line in single] == ["1", "3", "4"]
    assert told(make_plan(tmp_path / "streak"), [streak]) == single


def test_every_column_is_as_the_original_has_it(tmp_path):
    line = make_line(3, tries=2, items_in=7, items_ok=7, seconds=1.25, cpu_seconds=0.5, finished=1e9 + 2.5)
    assert list(told(make_plan(tmp_path), [line])[0].values()) == [
        "3", "2", "process000", "2001-09-09T01:46:41.250000Z", "7", "7", "0", "1.250000", "0.500000",
        "1.250000", "RUN_DONE", "", "", '{"node": "0-1", "round": 0}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        ("failed", "RunInvocationTimeout", "RUN_TIMEOUT"),
        ("failed", "ProcessDied", "RUN_EXCEPTION"),
        ("failed", "OverheadTimeout", "LOAD_TIMEOUT"),
        ("failed", "InputChangedError", "LOAD_EXCEPTION"),
        ("short", "InputChangedError", "RUN_DONE"),
        ("short", "ShortReturn", "RUN_DONE"),
    ],
)
def test_a_status_is_the_originals_word(tmp_path, status, kind, expected):
    error = {"type": kind, "message": "m", "frame": None, "traceback": ""}
    (line,) = told(make_plan(tmp_path), [make_line(0, status, error=error, seconds=2.0)])
    assert (line["Status"], line["Error Category"], line["Elapsed Seconds"]) == (expected, kind, "2.000000")
    assert (float(line["Run Method Seconds"]) == 0) == expected.startswith("LOAD")


def test_every_try_of_several_rounds_is_there_also_one_that_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(job_report, "_LINES", 3)
    plan = make_plan(tmp_path, mini_batches=9)
    write_growing(plan, "segments/0-1-0-0", b"row")
    gone = make_line(0, extents=[Extent("segments/0-1-0-0", 1, 9, 0)])
    good = make_line(0, extents=[extent("segments/0-1-0-0", 0, b"row")])
    lines = told(plan, [gone, good, *map(make_line, range(1, 9))], round_=2)
    assert [line["Mini-batch Id"] for line in lines] == ["0", *map(str, range(9))]
    assert json.loads(lines[0]["Mini-batch Detail"]) == {"node": "0-1", "round": 2}


def test_the_parts_of_a_bisected_mini_batch_are_counted(tmp_path):
    parts = [Part(n, 1, status, 0, 0, [], None) for n, status in enumerate(["ok", "failed", "ok"])]
    lines = told(make_plan(tmp_path), [make_line(0), make_line(1, "short", parts=parts), make_line(2)])
    details = [json.loads(line["Mini-batch Detail"]) for line in lines]
    assert details[1] == {"node": "0-1", "round": 0, "parts": {"ok": 2, "failed": 1}}
    assert details[0] == details[2] == {"node": "0-1", "round": 0}


def test_text_that_is_no_utf8_is_written(tmp_path):
    error = {"type": "OSError", "message": "a\udcffb", "frame": None, "traceback": ""}
    (line,) = told(make_plan(tmp_path), [make_line(0, "failed", error=error)])
    assert line["Error Message"] == "a\\udcffb"


def test_a_later_reduce_writes_it_anew(job, echo):
    job.files(3).split(echo)
    (job.folder / "input" / "00001").write_text("changed meanwhile")
    with pytest.raises(Exception, match="1 items failed"):
        job.run()
    assert len(read(job.plan.logs)) == 3
    with pytest.raises(Exception, match="1 items failed"):
        job.run()
    lines = read(job.plan.logs)
    assert len(lines) == 4
    assert [json.loads(line["Mini-batch Detail"])["round"] for line in lines] == [0, 0, 0, 1]
    assert {line["Status"] for line in lines} == {"RUN_DONE", "LOAD_EXCEPTION"}
    assert all(datetime.fromisoformat(line["Process Start Time"]) for line in lines)


def test_without_an_output_folder_it_is_in_the_run_directory(job, echo):
    nowhere = {"output": None, "storage_root": "runs", "output_action": "summary_only"}
    result = job.files(2).split(echo, append_row_file_name=None, **nowhere).run()
    assert result.logs.startswith(result.run_dir)
    assert len(read(result.logs)) == 2
    assert not left_over(result.run_dir)


def test_a_report_that_cannot_be_written_is_a_warning(job, echo, caplog):
    job.files(2).split(echo).node()
    blocked = job.output / "logs" / "sys" / "job_report"
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.touch()
    assert job.reduce().verdict == "succeeded"
    assert "processed_mini-batches.csv is not written: [Errno 17] File exists" in caplog.text
    assert job.rows() == job.names(2)
    assert not left_over(job.output)


def test_a_full_disk_costs_the_report_and_not_the_verdict(job, echo, caplog, monkeypatch):
    job.files(2).split(echo).node()
    open_ = job_report.open_temporary

    def full(folder):
        file = open_(folder)
        raw = os.open("/dev/full", os.O_WRONLY)
        os.dup2(raw, file.fileno())
        os.close(raw)
        return file

    monkeypatch.setattr(job_report, "open_temporary", full)
    assert job.reduce().verdict == "succeeded"
    assert f"is not written: [Errno {errno.ENOSPC}]" in caplog.text
    assert not (job.output / "logs" / "sys" / "job_report").exists()
    assert not left_over(job.output)
