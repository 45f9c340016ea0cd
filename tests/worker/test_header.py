# SPDX-License-Identifier: Apache-2.0
"""append_row_dataframe_header: one header for all frames of a run, agreed on once in each process."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from airflow_parallelrun.worker.errors import ReturnValueError
from airflow_parallelrun.worker.output import SETTINGS_FILE, Origin, RowFormatter

ORIGIN = Origin(7, ["/in/a", "/in/b"], 0, 1)


class Node:
    """Answers as a node does: the first header holds."""

    def __init__(self, held=None):
        self.held, self.asked = held, []

    def agree(self, header):
        self.asked.append(header)
        self.held = self.held or header
        return self.held


@pytest.fixture
def formatter(tmp_path):
    def make(node, append_row=True, provenance=(), **to_csv):
        settings = {"append_row": {"pandas.DataFrame.to_csv": to_csv}}
        (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings))
        return RowFormatter(str(tmp_path), append_row, provenance, agree=node.agree)

    return make


@pytest.mark.parametrize(
    ("to_csv", "header", "rows"),
    [
        ({}, '"a b" c\n', "1 x\n"),
        ({"sep": ","}, "a b,c\n", "1,x\n"),
        ({"sep": ",", "index": True}, ",a b,c\n", "0,1,x\n"),
        ({"sep": ",", "index": True, "index_label": "n"}, "n,a b,c\n", "0,1,x\n"),
        ({"header": True}, '"a b" c\n', "1 x\n"),
        ({"header": False}, '"a b" c\n', "1 x\n"),
        ({"header": ["A", "C"]}, "A C\n", "1 x\n"),
        ({"columns": ["c"]}, "c\n", "x\n"),
        ({"quoting": 1, "sep": ",", "lineterminator": "\r\n"}, '"a b","c"\r\n', '"1","x"\r\n'),
    ],
)
def test_the_header_is_written_as_the_rows_are_and_apart_from_them(formatter, to_csv, header, rows):
    node = Node()
    made = formatter(node, **to_csv)
    assert made.header == b""
    frame = pd.DataFrame({"a b": [1], "c": ["x"]})
    assert [made.rows(frame, ORIGIN).decode() for _ in range(2)] == [rows, rows]
    assert node.asked == [header]
    assert made.header.decode() == header


@pytest.mark.parametrize("to_csv", [{}, {"columns": ["b"]}, {"header": ["A", "B"]}])
def test_provenance_columns_have_names_too(formatter, to_csv):
    made = formatter(node := Node(), provenance=("row", "try"), **to_csv)
    made.rows(pd.DataFrame({"a": [1], "b": [2]}), ORIGIN)
    assert node.held.split()[-2:] == ["row", "try"]
    assert len(node.held.split()) == (3 if "columns" in to_csv else 4)


def test_what_is_no_frame_has_no_header_and_none_is_asked_for(formatter):
    made = formatter(node := Node())
    assert made.rows(["a", "b"], ORIGIN) == b"a\nb\n"
    assert made.rows([], ORIGIN) == made.rows(pd.DataFrame(), ORIGIN) == b""
    assert node.asked == []
    assert formatter(node, append_row=False).rows(pd.DataFrame({"a": [1]}), ORIGIN) == b""
    assert node.asked == []


def test_an_empty_frame_with_columns_counts(formatter):
    made = formatter(node := Node())
    assert made.rows(pd.DataFrame({"a": [], "b": []}), ORIGIN) == b""
    assert node.asked == ["a b\n"]
    with pytest.raises(ReturnValueError):
        made.rows(pd.DataFrame({"a": []}), ORIGIN)


@pytest.mark.parametrize(
    "other",
    [
        pd.DataFrame({"b": [1], "a": [1]}),
        pd.DataFrame({"a": [1]}),
        pd.DataFrame({"a": [1], "b": [1], "c": [1]}),
        pd.DataFrame({"a": [1], "B": [1]}),
    ],
    ids=["order", "fewer", "more", "case"],
)
def test_another_header_is_an_error_that_names_both(formatter, other):
    made = formatter(Node())
    good = pd.DataFrame({"a": [1], "b": [2]})
    made.rows(good, ORIGIN)
    with pytest.raises(ReturnValueError) as caught:
        made.rows(other, ORIGIN)
    given = " ".join(other.columns)
    assert f"a DataFrame with the header '{given}'; the first one of this run had 'a b'" in str(caught.value)
    assert made.rows(good, ORIGIN) == b"1 2\n"


def test_the_first_one_of_the_run_may_be_another_processes(formatter):
    made = formatter(Node(held="x y\n"))
    with pytest.raises(ReturnValueError, match="the first one of this run had 'x y'"):
        made.rows(pd.DataFrame({"a": [1]}), ORIGIN)
    assert made.rows(pd.DataFrame({"x": [1], "y": [2]}), ORIGIN) == b"1 2\n"


def test_names_of_another_type_that_look_the_same_are_the_same(formatter):
    made = formatter(node := Node())
    assert made.rows(pd.DataFrame([[1, 2]]), ORIGIN) == b"1 2\n"
    assert made.rows(pd.DataFrame([[3, 4]], columns=["0", "1"]), ORIGIN) == b"3 4\n"
    assert node.asked == ["0 1\n"]


def test_the_names_of_the_index_are_part_of_it_where_it_is_written(formatter):
    frame = pd.DataFrame({"a": [1]}, index=pd.Index([5], name="n"))
    made = formatter(Node(), index=True)
    assert made.rows(frame, ORIGIN) == b"5 1\n"
    with pytest.raises(ReturnValueError, match="the header 'm a'; the first one of this run had 'n a'"):
        made.rows(frame.rename_axis(index="m"), ORIGIN)
    made = formatter(Node(), index=False)
    assert made.rows(frame, ORIGIN) == made.rows(frame.rename_axis(index="m"), ORIGIN) == b"1\n"


def test_a_header_is_formatted_once(formatter, monkeypatch):
    made = formatter(Node())
    formatted, to_csv = [], pd.DataFrame.to_csv

    def counted(frame, **settings):
        formatted.append(settings["header"])
        return to_csv(frame, **settings)

    monkeypatch.setattr(pd.DataFrame, "to_csv", counted)
    for number in range(100):
        made.rows(pd.DataFrame({"a": [number]}), ORIGIN)
    assert formatted == [True] + [False] * 100


def test_a_long_header_is_cut_in_the_message(formatter):
    made = formatter(Node(held="x\n"))
    with pytest.raises(ReturnValueError) as caught:
        made.rows(pd.DataFrame({f"column{n}": [1] for n in range(1000)}), ORIGIN)
    assert len(str(caught.value)) < 700
    assert "…'; the first one of this run had 'x'" in str(caught.value)
