# SPDX-License-Identifier: Apache-2.0
"""What a person is told: failures grouped by cause, failed items listed, all of it bounded."""

from __future__ import annotations

import json

import pytest
from workbench import make_line

from airflow_parallelrun.engine.journal import Record
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


def test_each_failed_item_has_a_line_and_a_short_return_has_one_with_all(plan):
    short = problem(1, "1 elements for 2 items", "ShortReturn", None, "short")
    short = short._replace(line=short.line._replace(items_ok=1))
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
