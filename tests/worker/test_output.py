# SPDX-License-Identifier: Apache-2.0
"""The bytes of the append_row file, and the segment that takes them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest

from airflow_parallelrun.worker import output
from airflow_parallelrun.worker.errors import ContractError, ReturnValueError
from airflow_parallelrun.worker.output import SETTINGS_FILE, Origin, RowFormatter, Segment, SegmentError

ORIGIN = Origin(7, ["/in/a b", "/in/c"], 3, 2)
ALL_COLUMNS = ("mini_batch", "source", "row", "try")  # model_version has tests of its own


@pytest.fixture
def formatter(tmp_path):
    return RowFormatter(str(tmp_path), append_row=True)


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        (["a", "b"], "a\nb\n"),
        (("a", "b"), "a\nb\n"),
        (["a b", 1, 2.5, None, True], "a b\n1\n2.5\nNone\nTrue\n"),
        ([["x", 0], {"k": "v"}, ("t",)], "['x', 0]\n{'k': 'v'}\n('t',)\n"),
        (["with\nnewline", 'q"u'], 'with\nnewline\nq"u\n'),
        ([""], "\n"),
        ([], ""),
        ((), ""),
        (["é", "日本"], "é\n日本\n"),
        ([np.float32(0.5), np.int64(3)], "0.5\n3\n"),
        (namedtuple("T", "a b")(1, 2), "1\n2\n"),
        (pd.DataFrame({"a": [5.1, None], "b": ["x y", 'q"u']}), '5.1 "x y"\n "q""u"\n'),
        (pd.DataFrame({"c": [True, False]}), "True\nFalse\n"),
        (pd.DataFrame({"a": [1, 2]}, index=[7, 8]), "1\n2\n"),
        (pd.DataFrame({"a": []}), ""),
        (pd.DataFrame(), ""),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_rows_are_the_originals(formatter, value, rows):
    assert formatter.rows(value, ORIGIN) == rows.encode()
    assert formatter.count(value, 9) == len(value)


def test_names_that_are_no_text_keep_their_bytes(formatter):
    assert formatter.rows([b"\xff.png".decode("utf-8", "surrogateescape")], ORIGIN) == b"\xff.png\n"


def test_summary_only_counts_and_writes_nothing(tmp_path):
    formatter = RowFormatter(str(tmp_path), append_row=False)
    assert formatter.rows(["a"], ORIGIN) == formatter.rows(pd.DataFrame({"a": [1]}), ORIGIN) == b""
    assert formatter.count(["a", "b"], 9) == 2


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("text", "builtins.str"),
        (b"x", "builtins.bytes"),
        (3, "builtins.int"),
        ({"a": 1}, "builtins.dict"),
        ((x for x in "ab"), "generator"),
        (np.array(3), "an array without a dimension"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(formatter, value, name):
    with pytest.raises(ReturnValueError, match=f"run\\(\\) returned .*{name}.*Return a list"):
        formatter.count(value, 9)


def test_none_asks_for_the_return_statement(formatter):
    with pytest.raises(ReturnValueError, match="is a return statement missing"):
        formatter.count(None, 9)


def test_strict_refuses_more_elements_than_items(tmp_path):
    strict = RowFormatter(str(tmp_path), append_row=True, strict=True)
    assert strict.count(["a", "b"], 2) == 2
    assert strict.count(["a"], 2) == 1
    with pytest.raises(ReturnValueError, match=r"returned 3 elements for 2 items \(strict_returns\)"):
        strict.count(["a", "b", "c"], 2)


@pytest.mark.parametrize(
    ("columns", "value", "rows"),
    [
        (ALL_COLUMNS, ["x y", "z"], 'x y 7 "/in/a b" 3 2\nz 7 /in/c 4 2\n'),
        (ALL_COLUMNS, pd.DataFrame({"a": ["x y", "z"]}), '"x y" 7 "/in/a b" 3 2\nz 7 /in/c 4 2\n'),
        (ALL_COLUMNS, pd.DataFrame({"a": [1, 2]}, index=[5, 5]), '1 7 "/in/a b" 3 2\n2 7 /in/c 4 2\n'),
        (("source",), ["x"], "x \n"),
        (("source",), pd.DataFrame({"a": [1, 2, 3]}), "1 \n2 \n3 \n"),
        (("row",), ["x", "y", "z"], "x 3\ny 4\nz 5\n"),
        (("try",), [], ""),
    ],
)
def test_provenance_stands_behind_each_row(tmp_path, columns, value, rows):
    formatter = RowFormatter(str(tmp_path), append_row=True, provenance=columns)
    assert formatter.rows(value, ORIGIN).decode() == rows


def test_provenance_follows_the_settings(tmp_path):
    to_csv = {"sep": ",", "columns": ["b"]}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps({"append_row": {"pandas.DataFrame.to_csv": to_csv}}))
    formatter = RowFormatter(str(tmp_path), append_row=True, provenance=("row", "try"))
    assert formatter.rows(pd.DataFrame({"a": [1], "b": [2]}), ORIGIN) == b"2,3,2\n"
    assert formatter.rows(["a,b"], ORIGIN) == b"a,b,3,2\n"


def test_provenance_does_not_hide_a_column_of_that_name(tmp_path):
    formatter = RowFormatter(str(tmp_path), append_row=True, provenance=("row",))
    with pytest.raises(ReturnValueError, match="a column 'row', which is a provenance column"):
        formatter.rows(pd.DataFrame({"row": [1]}), ORIGIN)


def write_settings(folder, text):
    (folder / SETTINGS_FILE).write_text(text)
    return RowFormatter(str(folder), append_row=True)


@pytest.mark.parametrize(
    ("to_csv", "rows"),
    [
        ({}, b"1 x\n"),
        ({"sep": ","}, b"1,x\n"),
        ({"header": True, "index": True, "sep": "|"}, b"|a|b\n0|1|x\n"),
        ({"quoting": 1}, b'"1" "x"\n'),
    ],
)
def test_settings_change_frames(tmp_path, to_csv, rows):
    text = json.dumps({"append_row": {"pandas.DataFrame.to_csv": to_csv}, "other": 1})
    assert write_settings(tmp_path, text).rows(pd.DataFrame({"a": [1], "b": ["x"]}), ORIGIN) == rows


@pytest.mark.parametrize("text", ["{}", '{"append_row": {}}', '{"other": [1]}'])
def test_settings_without_ours_change_nothing(tmp_path, text):
    assert write_settings(tmp_path, text).rows(pd.DataFrame({"a": [1], "b": [2]}), ORIGIN) == b"1 2\n"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"x"', '{"append_row": 1}', '{"append_row": {"pandas.DataFrame.to_csv": 7}}', "\0"],
)
def test_settings_that_cannot_be_used_are_named(tmp_path, text):
    with pytest.raises(ContractError, match=SETTINGS_FILE):
        write_settings(tmp_path, text)


def test_pandas_is_not_imported_for_those_who_do_not_use_it():
    code = (
        "import sys\nfrom airflow_parallelrun.worker.output import RowFormatter\n"
        "formatter = RowFormatter('.', True)\nformatter.rows(['a'], None); formatter.count(['a'], 1)\n"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'pandas', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def segment_fd(tmp_path, monkeypatch):
    monkeypatch.setattr(output.time, "sleep", lambda seconds: None)
    fd = os.open(tmp_path / "segment", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def content(fd):
    return os.pread(fd, 1 << 20, 0)


def test_rows_wait_and_follow_one_another(segment_fd):
    segment = Segment(segment_fd)
    segment.append(b"one")
    assert segment.end == 3
    segment.append(b"three")
    assert segment.end == 8
    assert content(segment_fd) == b""
    segment.flush()
    segment.flush()
    assert content(segment_fd) == b"onethree"


def test_many_rows_do_not_wait(segment_fd, monkeypatch):
    monkeypatch.setattr(output, "_BUFFER_BYTES", 6)
    segment = Segment(segment_fd)
    segment.append(b"one")
    segment.append(b"three")
    assert content(segment_fd) == b"onethree"
    segment.append(b"x")
    assert segment.end == 9
    assert content(segment_fd) == b"onethree"


def test_a_half_written_row_is_written_over(segment_fd, monkeypatch):
    segment, pwrite, calls = Segment(segment_fd), os.pwrite, []

    def flaky(fd, data, at):
        calls.append(at)
        if len(calls) == 2:
            return pwrite(fd, b"??", at)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", flaky)
    for rows in (b"one", b"three"):
        segment.append(rows)
        segment.flush()
    assert calls == [0, 3, 5, 3]
    assert content(segment_fd) == b"onethree"


def test_a_store_that_refuses_for_long_is_not_the_scripts_fault(segment_fd, monkeypatch):
    waits = []
    monkeypatch.setattr(output.time, "sleep", waits.append)

    def full(fd, data, at):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    segment = Segment(segment_fd)
    segment.append(b"x")
    with pytest.raises(SegmentError, match="No space left"):
        segment.flush()
    assert waits == [1, 2, 4, 8, 16]


def test_short_writes_are_completed(segment_fd, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:2], at))
    segment = Segment(segment_fd)
    segment.append(b"0123456789")
    segment.flush()
    assert content(segment_fd) == b"0123456789"
