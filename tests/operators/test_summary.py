# SPDX-License-Identifier: Apache-2.0
"""What Airflow keeps of a result."""

from __future__ import annotations

import json

from airflow_parallelrun.engine.ledger import Counts
from airflow_parallelrun.engine.report import ErrorGroup, JobResult
from airflow_parallelrun.operators.summary import SUMMARY_BYTES, as_uri, error_report, summary


def _result(groups: int = 2, chars: int = 10) -> JobResult:
    error = ErrorGroup(
        error=f"ValueError: {'x' * chars}",
        mini_batches=3,
        items=6,
        sample_mini_batch=7,
        sample_items=["/data/7.png"],
        traceback="y" * chars,
        log="/out/logs/user/error/0-1/process000.txt",
    )
    return JobResult(
        verdict="succeeded with errors",
        reason="",
        output="/out",
        output_file="/out/rows.txt",
        failed_items_file="/out/failed_items.jsonl",
        logs="/out/logs",
        run_dir="/out/.parallelrun/1",
        plan_id="5eed",
        round=0,
        counts=Counts(10, 6, 1, 3, 0, 20, 13, 7, 0, 13),
        thresholds={},
        durations={},
        error_groups=[error] * groups,
    )


def test_a_summary_is_the_result() -> None:
    assert summary(_result()) == _result().to_dict()


def test_a_summary_has_a_limit_whatever_the_errors_say() -> None:
    result = _result(groups=10, chars=4000)
    assert len(json.dumps(result.to_dict())) > SUMMARY_BYTES
    short = summary(result)
    assert len(json.dumps(short)) <= SUMMARY_BYTES
    assert short["error_groups"] == result.to_dict()["error_groups"][: len(short["error_groups"])] != []
    assert short["counts"] == result.to_dict()["counts"]


def test_an_error_report_is_short_and_says_where_the_rest_is() -> None:
    report = error_report(_result(groups=10, chars=4000))
    assert report.startswith(
        "7 of 20 items failed, in 4 of 10 mini-batches.\n3 mini-batches: ValueError: xxx"
    )
    assert report.endswith("\nAll of them: /out/failed_items.jsonl")
    assert len(report) < 1500


def test_a_path_becomes_a_uri_and_a_url_stays() -> None:
    assert as_uri("/out/a b.txt") == "file:///out/a%20b.txt"
    assert as_uri("abfs://results@datastore/a b.txt") == "abfs://results@datastore/a b.txt"
    assert as_uri(None) is None
