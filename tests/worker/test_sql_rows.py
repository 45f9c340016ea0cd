# SPDX-License-Identifier: Apache-2.0
"""What databases' drivers return, in the types of columns."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal

import pandas as pd
import pytest

from airflow_parallelrun.worker import sql

UTC = datetime.UTC
NOON = datetime.datetime(2026, 11, 25, 12, 0)


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("int64", [1, True, Decimal(2), 3.0, -(2**63)], [1, 1, 2, 3, -(2**63)]),
        ("float64", [1, 0.5, Decimal("0.25"), None], [1.0, 0.5, 0.25, None]),
        ("bool", [True, 0, 1, Decimal(1)], [True, False, True, True]),
        (
            "string",
            ["a", 1, Decimal("1.50"), datetime.date(2026, 1, 2), None],
            ["a", "1", "1.50", "2026-01-02", None],
        ),
        ("datetime", [NOON, None], [NOON, pd.NaT]),
        ("datetime", [datetime.date(2026, 11, 25)], [datetime.datetime(2026, 11, 25)]),
        ("datetime", ["2026-11-25 12:00:00", "2026-11-25T13:00+01:00"], [NOON, NOON]),
        (
            "datetime",
            [NOON.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2)))],
            [NOON.replace(hour=10)],
        ),
        ("datetime:%d.%m.%Y %H", ["25.11.2026 12"], [NOON]),
        ("datetime:%d.%m.%Y", [NOON], [NOON]),
        ("object", [b"x", [1], None], [b"x", [1], None]),
    ],
)
def test_values_that_fit(kind, given, expected):
    converted, unfit = sql._converted(given, kind, pd)
    assert unfit == {}
    assert [(type(a) is bool, a) for a in converted if a is not pd.NaT] == [
        (type(b) is bool, b) for b in expected if b is not pd.NaT
    ]


@pytest.mark.parametrize(
    ("kind", "good", "bad", "why"),
    [
        ("int64", 1, None, "the value is missing; the column is int64"),
        ("int64", 1, "1", "'1' is not int64"),
        ("int64", 1, 1.5, "1.5 is not int64"),
        ("int64", 1, 2**63, f"{2**63} is not int64"),
        ("int64", 1, float("nan"), "nan is not int64"),
        ("float64", 1.0, "1.0", "'1.0' is not float64"),
        ("float64", 1.0, 10**400, "is not float64"),
        ("bool", True, None, "the value is missing; the column is bool"),
        ("bool", True, 2, "2 is not bool"),
        ("string", "x", b"x", "b'x' is not string"),
        ("datetime", NOON, "noon", "'noon' is not datetime"),
        ("datetime", NOON, 5, "5 is not datetime"),
    ],
)
def test_values_that_do_not_fit_are_told_one_by_one(kind, good, bad, why):
    converted, unfit = sql._converted([good, bad, good], kind, pd)
    assert [*unfit] == [1]
    assert unfit[1].endswith(why)
    assert converted[0] == converted[2] == good


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None], "int64"),
        ([2**63], "object"),
        ([1, 0.5], "float64"),
        ([Decimal(1), None], "float64"),
        ([True, None], "bool"),
        ([True, 1], "object"),
        (["x", None], "string"),
        ([NOON, datetime.date(2026, 1, 1)], "datetime"),
        ([b"x"], "object"),
        ([1, "x"], "object"),
        ([None], None),
    ],
)
def test_the_type_of_a_sample(values, kind):
    assert sql.type_of(values) == kind


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (5, "int"),
        ("x", "str"),
        (NOON, "datetime"),
        (NOON.replace(tzinfo=UTC), "datetime"),
        (NOON.date(), "date"),
    ],
)
def test_keys_stand_in_the_plan_as_they_are(key, kind):
    assert sql.key_type(key) == kind
    back = sql._key(json.loads(json.dumps(sql.as_json(key))), kind)
    assert (back, type(back)) == (key, type(key))


@pytest.mark.parametrize("key", [1.5, True, b"x", None, Decimal(1)])
def test_what_is_no_key(key):
    assert sql.key_type(key) == ""
