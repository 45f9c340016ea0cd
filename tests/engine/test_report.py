# SPDX-License-Identifier: Apache-2.0
"""What a person is told: failures grouped by cause, failed items listed, all of it bounded."""

from __future__ import annotations

import json

import pytest
from workbench import make_line

from airflow_parallelrun.engine import report
from airflow_parallelrun.engine.journal import Part, Record
from airflow_parallelrun.engine.ledger import Counts
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.report import GROUPS, JobResult, failed_item_lines, group_errors


@pytest.fixture
def plan(job, echo):
    return job.files(40).split(echo, mini_batch_size=2).plan


def problem(ordinal, message="broken", kind="ValueError", frame="score.py, line 3, in run", status="failed"):
    error = {"type": kind, "message": message, "frame": frame, "traceback": f"T{ordinal}", "log": "/log"}
    return Record(Attempt(0, 1), 0, make_line(ordinal, status, items_in=2, error=error), 0)


def test_messages_that_differ_in_names_and_numbers_are_one_cause(plan):
    texts = ["cannot open '/a/1.png' at 12", "cannot open '/b/c d.png' at 7", 'cannot open "x" at 99']
    (group,) = group_errors(plan, [problem(n, text) for n, text in enumerate(texts)])
    assert (group.mini_batches, group.items) == (3, 6)
    assert group.error == f"ValueError: {texts[0]} (score.py, line 3, in run)"
    assert (group.sample_mini_batch, group.traceback, group.log) == (0, "T0", "/log")
    assert [item[-5:] for item in group.sample_items] == ["00000", "00001"]


def test_paths_without_quotes_are_one_cause_too(plan):
    texts = ["no such file: /data/x/1.png", "no such file: /data/y/2.png"]
    assert len(group_errors(plan, [problem(n, text) for n, text in enumerate(texts)])) == 1


def test_type_message_and_place_tell_causes_apart_most_frequent_first(plan):
    records = [
        problem(0),
        problem(1, kind="KeyError"),
        problem(2, "other"),
        problem(3, "other"),
        problem(4, frame="score.py, line 9, in run"),
        problem(5, kind="ShortReturn", frame=None, status="short"),
    ]
    groups = group_errors(plan, records)
    assert [group.sample_mini_batch for group in groups] == [2, 0, 1, 4, 5]
    assert groups[-1].error == "ShortReturn: broken"


def test_groups_are_few_and_texts_are_bounded(plan):
    records = [problem(n, kind=f"Error{n}") for n in range(20)]
    records[0].line.error["traceback"] = "x" * 10_000 + "END"
    groups = group_errors(plan, records)
    assert len(groups) == GROUPS
    assert len(groups[0].traceback) == 2000
    assert groups[0].traceback.endswith("END")


def test_causes_are_bounded_in_number_whatever_messages_say(plan, monkeypatch):
    monkeypatch.setattr(report, "KINDS", 2)
    letters = "abcdefgh"
    records = [problem(n, letters[n], frame=f"score.py, line {3 + n % 3}, in run") for n in range(8)]
    records += [problem(8, "a"), problem(9, "z", kind="KeyError", frame=None)]
    groups = group_errors(plan, records)
    assert {group.error: group.mini_batches for group in groups} == {
        "ValueError: (other messages) (score.py, line 5, in run)": 2,  # c, f
        "ValueError: (other messages) (score.py, line 3, in run)": 2,  # d, g
        "ValueError: a (score.py, line 3, in run)": 2,
        "other errors": 3,  # e and h in line 4, and the KeyError
        "ValueError: b (score.py, line 4, in run)": 1,
    }
    assert groups[0].error == "other errors"
    assert (groups[0].sample_mini_batch, groups[0].traceback) == (4, "T4")


def test_a_traceback_is_shown_if_any_of_a_kind_has_one(plan):
    records = [problem(n) for n in range(3)]
    records[0].line.error["traceback"] = ""
    (group,) = group_errors(plan, records)
    assert (group.sample_mini_batch, group.traceback) == (0, "T1")


def part(first, items, status, items_ok, message="", kind="ValueError"):
    error = {
        "type": kind,
        "message": message,
        "frame": None,
        "traceback": "",
        "log": f"/0-{first}/process007.txt",
    }
    return Part(first, items, status, items_ok, items_ok, [], error if message else None)


@pytest.fixture
def bisected(job, echo):
    """A mini-batch of eight: one item that is broken, two good ones, a short return, two more broken ones."""
    plan = job.files(16).split(echo, mini_batch_size=8).plan
    parts = [
        part(0, 1, "failed", 0, "broken"),
        part(1, 2, "ok", 2),
        part(3, 3, "short", 1, "1 elements for 3 items", "ShortReturn"),
        part(6, 1, "failed", 0, "broken"),
        part(7, 1, "failed", 0, "torn", "OSError"),
    ]
    line = make_line(1, "short", items_in=8, items_ok=3, error=parts[0].error, parts=parts)
    return plan, Record(Attempt(0, 1), 0, line, 0)


def test_of_a_bisected_mini_batch_each_part_counts_under_its_own_error(bisected):
    plan, record = bisected
    found = [
        (group.error, group.mini_batches, group.items, [item[-5:] for item in group.sample_items])
        for group in group_errors(plan, [record])
    ]
    assert found == [
        ("ValueError: broken", 1, 2, ["00008"]),
        ("ShortReturn: 1 elements for 3 items", 1, 2, ["00011", "00012", "00013"]),
        ("OSError: torn", 1, 1, ["00015"]),
    ]


def test_of_a_bisected_mini_batch_only_what_failed_has_a_line(bisected):
    plan, record = bisected
    lines = [json.loads(line) for line in failed_item_lines(plan, [record])]
    told = [(line.get("item", "")[-5:], line["error"]["type"], line["node"]) for line in lines]
    # Where it was run is where its log is; the line is of whoever ran the last part.
    assert told == [
        ("00008", "ValueError", "0-0"),
        ("", "ShortReturn", "0-3"),
        ("00014", "ValueError", "0-6"),
        ("00015", "OSError", "0-7"),
    ]
    assert {(line["process"], line["error"]["log"][4:]) for line in lines} == {
        ("process007", "/process007.txt")
    }
    assert [line["status"] for line in lines] == ["failed", "short", "failed", "failed"]
    assert [item[-5:] for item in lines[1]["items"]] == ["00011", "00012", "00013"]
    assert lines[1]["missing"] == 2
    assert {line["mini_batch"] for line in lines} == {1}


def test_a_bisected_run_names_the_broken_items_alone(job):
    script = """
        def run(mini_batch):
            if any(path.endswith("3") for path in mini_batch):
                raise ValueError("three")
            return [os.path.basename(path) for path in mini_batch]
    """
    job.files(16).split(script, mini_batch_size=8, run_max_try=1, error_threshold=2, bisect_failures=True)
    result = job.run()
    assert [line["item"][-5:] for line in job.failed_items()] == ["00003", "00013"]
    assert job.rows() == job.names(16, without={3, 13})
    (group,) = result.error_groups
    assert (group.mini_batches, group.items, group.sample_items[0][-5:]) == (2, 2, "00003")
    assert "ValueError: three" in group.traceback


def test_where_no_process_is_at_fault_the_nodes_own_log_is_named(plan):
    lost = problem(0, kind="NodeLost")
    lost.line.error["log"] = ""
    log = f"{plan.logs}/sys/node/0-1.log.txt"
    assert group_errors(plan, [lost])[0].log == log
    assert {json.loads(line)["error"]["log"] for line in failed_item_lines(plan, [lost])} == {log}


def test_each_failed_item_has_a_line_and_a_short_return_has_one_with_all(plan):
    short = problem(1, "1 elements for 2 items", "ShortReturn", None, "short")
    short = short._replace(entry=short.line._replace(items_ok=1))
    lines = [json.loads(line) for line in failed_item_lines(plan, [problem(0), short])]
    assert [line.get("item", "")[-5:] for line in lines] == ["00000", "00001", ""]
    assert lines[0] | {"item": ""} == {
        "item": "",
        "mini_batch": 0,
        "status": "failed",
        "tries": 1,
        "node": "0-1",
        "process": "process000",
        "error": {
            "type": "ValueError",
            "message": "broken",
            "frame": "score.py, line 3, in run",
            "log": "/log",
        },
    }
    assert (lines[2]["missing"], [item[-5:] for item in lines[2]["items"]]) == (1, ["00002", "00003"])


def test_no_problem_no_line(plan):
    assert list(failed_item_lines(plan, [])) == []
    assert group_errors(plan, []) == []


def test_result_as_json(plan):
    counts = Counts(1, 1, 0, 0, 0, 2, 2, 0, 0, 2)
    limits = {"error_threshold": 3, "allowed_failed_count": None, "allowed_failed_percent": None}
    seconds = {"split_s": 0.1}
    result = JobResult(
        "succeeded", "", "/o", "/o/rows", None, "/o/logs", "/r", "p", 0, counts, limits, seconds, []
    )
    values = json.loads(result.to_json())
    assert values["format_version"] == 1
    assert values["counts"]["items_succeeded"] == 2
    assert values["thresholds"] == limits
    assert values == json.loads(json.dumps(result.to_dict()))


def test_failed_items_of_an_earlier_verdict_do_not_stay(job):
    script = """
        def run(mini_batch):
            if mini_batch[0].endswith("3") and not os.path.exists(MENDED):
                raise ValueError("broken")
            return [os.path.basename(path) for path in mini_batch]
    """.replace("MENDED", repr(str(job.folder / "mended")))
    job.files(5).split(script, run_max_try=1, error_threshold=1, process_count_per_node=1).run()
    assert len(job.failed_items()) == 1
    (job.folder / "mended").touch()
    assert job.run().failed_items_file is None
    assert not (job.output / "failed_items.jsonl").exists()


def test_a_new_split_takes_the_old_result_away_and_a_failed_verdict_the_old_rows(job, echo):
    job.files(2).split(echo, process_count_per_node=1).run()
    assert job.result()["verdict"] == "succeeded"
    job.split("def run(batch): raise ValueError('x')", run_max_try=1, process_count_per_node=1)
    assert not (job.output / "job_result.json").exists()
    with pytest.raises(Exception, match="items failed, error_threshold is 0"):
        job.run()
    assert job.result()["verdict"] == "failed"
    assert not (job.output / "parallel_run_step.txt").exists()
