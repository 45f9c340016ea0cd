# SPDX-License-Identifier: Apache-2.0
"""Conditions of rows as people write them, and as a plan has them."""

from __future__ import annotations

import datetime
import json

import pandas as pd
import pytest

from airflow_parallelrun.datasets import Dataset, DatasetInput
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NotSupportedError

SALES = Dataset.Tabular.from_parquet_files("sales")


def test_a_condition_is_plain_data():
    condition = (
        ((SALES["a"] > 1) & (SALES["b"] == "x")) | ~SALES["c"].isin([1.5, True]) | SALES["d"].is_null()
    )
    assert condition.document == [
        "or",
        [
            "or",
            ["and", [">", "a", 1], ["==", "b", "x"]],
            ["not", ["in", "c", [1.5, True]]],
        ],
        ["is_null", "d"],
    ]


@pytest.mark.parametrize(
    ("condition", "document"),
    [
        (SALES["a"] != 1, ["!=", "a", 1]),
        (SALES["a"] < 1, ["<", "a", 1]),
        (SALES["a"] <= 1, ["<=", "a", 1]),
        (SALES["a"] >= 1, [">=", "a", 1]),
        (1 < SALES["a"], [">", "a", 1]),  # noqa: SIM300 - what people may write
        (SALES["a"] == datetime.date(2026, 1, 2), ["==", "a", {"date": "2026-01-02"}]),
        (SALES["a"] < datetime.datetime(2026, 1, 2), ["<", "a", {"datetime": "2026-01-02T00:00:00"}]),
    ],
)
def test_comparisons(condition, document):
    assert condition.document == document


def test_a_second_filter_narrows_the_first():
    dataset = SALES.filter(SALES["a"] > 1).filter(SALES["b"] < 2)
    assert dataset.condition == ["and", [">", "a", 1], ["<", "b", 2]]


def test_an_input_with_a_filter_as_json():
    given = SALES.filter((SALES["a"] > 1) & SALES["b"].isin(["x"])).as_named_input("sales")
    assert DatasetInput.from_dict(json.loads(json.dumps(given.to_dict()))) == given


@pytest.mark.parametrize(
    "use",
    [
        lambda column: (column > 1) and (column < 3),
        lambda column: (column > 1) or (column < 3),
        lambda column: not (column > 1),
        lambda column: 1 < column < 3,
    ],
)
def test_what_would_lose_a_half_is_refused(use):
    with pytest.raises(ConfigurationError, match=r"Write \(a\) & \(b\)"):
        use(SALES["a"])


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), pd.NaT, b"x", [1], SALES["b"], 1j])
def test_what_nothing_can_be_compared_with(value):
    with pytest.raises(InvalidValueError, match=r"a number, a text, .* for missing values there is is_null"):
        SALES["a"] == value  # noqa: B015 - it raises
    with pytest.raises(InvalidValueError):
        SALES["a"].isin([value])


def test_what_is_no_filter():
    with pytest.raises(InvalidValueError, match="one value at least"):
        SALES["a"].isin([])
    with pytest.raises(InvalidValueError, match="the filter must be a condition, such as"):
        SALES.filter("a > 1")
    with pytest.raises(InvalidValueError, match="in brackets where it stands beside another"):
        SALES.filter((SALES["a"] > 1) & True)
    with pytest.raises(InvalidValueError, match="the column must be a name"):
        SALES[5]
    with pytest.raises(InvalidValueError, match="the column must be a name"):
        list(SALES)


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        ["and", [">", "a", 1]],
        ["xor", [">", "a", 1], [">", "a", 1]],
        ["~", "a", 1],
        [">", 1, 1],
        [">", "a", None],
        [">", "a", {"date": "yesterday"}],
        [">", "a", {"time": "12:00"}],
        ["in", "a", []],
        ["in", "a", "x"],
        ["is_null", "a", 1],
    ],
)
def test_a_condition_from_outside_is_checked(document):
    values = {"type": "tabular", "format": "parquet", "paths": ["a"], "condition": document}
    with pytest.raises(InvalidValueError, match="condition must be"):
        DatasetInput.from_dict(values)


def test_where_it_cannot_be_had():
    for make in (Dataset.Tabular.from_delimited_files, Dataset.Tabular.from_json_lines_files):
        with pytest.raises(NotSupportedError, match=r"Leave rows out in run\(\)"):
            make("a").filter(SALES["a"] > 1)
    for limited in (SALES.take(5), SALES.skip(5)):
        with pytest.raises(ConfigurationError, match="filter first"):
            limited.filter(SALES["a"] > 1)
