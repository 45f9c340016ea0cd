# SPDX-License-Identifier: Apache-2.0
"""What the links lead to; tests/on_airflow asks a real Airflow for them and presses the buttons."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_parallelrun.operators.links import EarlierRunLink, ErrorReportLink, JobResultLink, OutputLink
from airflow_parallelrun.operators.reduce import ReduceOperator
from airflow_parallelrun.operators.run import NodeOperator
from airflow_parallelrun.operators.split import SplitOperator
from airflow_parallelrun.provider_info import get_provider_info

_TI: Any = SimpleNamespace(
    dag_id="nightly", run_id="manual__2026-11-22T10:00:00+00:00", task_id="a.predict.run"
)


@pytest.fixture
def reduce() -> ReduceOperator:
    with DAG("nightly", schedule=None):
        return ReduceOperator(task_id="a.predict.reduce", split_task_id="a.predict.split")


def test_a_url_that_a_browser_opens_is_the_link(reduce: ReduceOperator) -> None:
    reduce.results["Output"] = "https://account.blob.example/results/rows.txt"
    assert OutputLink().get_link(reduce, ti_key=_TI) == "https://account.blob.example/results/rows.txt"


@pytest.mark.parametrize("path", ["/data/results/rows.txt", "abfs://results@datastore/rows.txt", None])
def test_what_a_browser_cannot_open_is_shown_by_airflow(
    reduce: ReduceOperator, path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (
        "dags/nightly/runs/manual__2026-11-22T10%3A00%3A00%2B00%3A00/tasks/a.predict.reduce/xcom"
        "?key_pattern=output"
    )
    reduce.results["Output"] = path
    monkeypatch.delenv("AIRFLOW__API__BASE_URL", raising=False)
    assert OutputLink().get_link(reduce, ti_key=_TI) == page
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/team/")
    assert OutputLink().get_link(reduce, ti_key=_TI) == f"https://airflow.example/team/{page}"


def test_the_earlier_run_has_a_page(reduce: ReduceOperator, monkeypatch: pytest.MonkeyPatch) -> None:
    reduce.results["Earlier run"] = "manual__2026-11-21T10:00:00+00:00"
    page = "dags/nightly/runs/manual__2026-11-21T10%3A00%3A00%2B00%3A00"
    monkeypatch.delenv("AIRFLOW__API__BASE_URL", raising=False)
    assert EarlierRunLink().get_link(reduce, ti_key=_TI) == page
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/team/")
    assert EarlierRunLink().get_link(reduce, ti_key=_TI) == f"https://airflow.example/team/{page}"
    reduce.results["Earlier run"] = None
    assert EarlierRunLink().get_link(reduce, ti_key=_TI) == ""


def test_where_there_is_nothing_there_is_no_link(reduce: ReduceOperator) -> None:
    for link in (OutputLink(), ErrorReportLink(), JobResultLink(), EarlierRunLink()):
        assert link.get_link(reduce, ti_key=_TI) == ""


def test_every_link_of_the_tasks_is_registered() -> None:
    paths = [path.rpartition(".") for path in get_provider_info()["extra-links"]]
    registered = {getattr(importlib.import_module(module), name) for module, _, name in paths}
    used = {
        type(link)
        for operator in (SplitOperator, NodeOperator, ReduceOperator)
        for link in operator.operator_extra_links
    }
    assert registered == used
    assert len({link().name for link in registered}) == len({link().xcom_key for link in registered}) == 4
