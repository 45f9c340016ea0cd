# SPDX-License-Identifier: Apache-2.0
"""Partition keys in paths."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_parallelrun.worker.partitions import PartitionFormat


@pytest.mark.parametrize(
    ("text", "path", "values"),
    [
        (
            "{user}/{season}/{genres}.wav",
            "/d/user1/winter/disco.wav",
            {"user": "user1", "season": "winter", "genres": "disco"},
        ),
        ("/{user}/x.csv", "/d/ada/x.csv", {"user": "ada"}),
        ("{user}/*.csv", "s3://bucket/ada/part-0.csv", {"user": "ada"}),
        ("{name}.{kind}", "/d/a.b.c", {"name": "a.b", "kind": "c"}),
        ("Store={Store}/Brand={Brand}/*", "/d/Store=2/Brand=a b/0", {"Store": "2", "Brand": "a b"}),
        ("{day:yyyy/MM/dd}/x", "/d/2026/02/28/x", {"day": datetime.datetime(2026, 2, 28)}),
        (
            "{t:yyyy-MM-ddTHH.mm.ss}/x",
            "2026-02-28T23.59.01/x",
            {"t": datetime.datetime(2026, 2, 28, 23, 59, 1)},
        ),
        ("{a key}/x", "/d/y\nz/x", {"a key": "y\nz"}),
    ],
)
def test_values(text, path, values):
    assert PartitionFormat(text).values(path) == values
    assert PartitionFormat(text).keys == list(values)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("{user}/{season}/{genres}.wav", "winter/disco.wav"),
        ("{user}/x.csv", "/d/ada/x.csv.gz"),
        ("{user}/x.csv", "/d/adax.csv"),
        ("name={name}/x", "/d/surname=b/x"),
        ("{day:yyyy/MM/dd}/x", "/d/2026/02/30/x"),
        ("{day:yyyy/MM/dd}/x", "/d/2026/2/3/x"),
        ("{a}.txt", "/d/b-txt"),
    ],
)
def test_what_does_not_fit(text, path):
    assert PartitionFormat(text).values(path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/*.csv", "no key"),
        ("{a}/{a}", "twice"),
        ("{a", "'{' at character 1 is alone"),
        ("a}/{b}", "'}' at character 2 is alone"),
        ("{}", "is alone"),
        ("{day:dd}", "not a date"),
        ("{day:yyyyMMyyyy}", "not a date"),
        ("{n:05d}", "not a date"),
    ],
)
def test_what_is_no_format(text, message):
    with pytest.raises(ValueError, match=message):
        PartitionFormat(text)


@given(
    st.lists(
        st.text(st.characters(exclude_characters="/", codec="utf-8"), min_size=1), min_size=1, max_size=4
    )
)
def test_keys_between_slashes_are_the_names(values):
    made = PartitionFormat("/".join(f"{{k{n}}}" for n in range(len(values))))
    assert made.values("/some/folder/" + "/".join(values)) == {f"k{n}": v for n, v in enumerate(values)}
