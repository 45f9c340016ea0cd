# SPDX-License-Identifier: Apache-2.0
"""Where records begin and end in text files."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_parallelrun.worker import records
from airflow_parallelrun.worker.errors import LoadError
from airflow_parallelrun.worker.records import (
    Records,
    TextFile,
    bytes_encoding,
    count_line_breaks,
    first_record,
    is_stream,
    next_line,
)

BREAKS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.lists(
    st.tuples(st.binary(max_size=6).map(lambda b: b.translate(None, b'\r\n"')), BREAKS), max_size=12
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@contextlib.contextmanager
def text(folder, content, name="t.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(content)
    with contextlib.closing(TextFile(str(path), encoding)) as file:
        yield file


def starts_of(content):
    """Where lines begin, by Python's own account; the end of the file is one."""
    at, starts = 0, []
    for line in content.splitlines(keepends=True):
        starts.append(at)
        at += len(line)
    return [*starts, at]


@given(LINES, st.booleans(), st.integers(1, 5))
def test_lines_of_every_kind(scratch, lines, ends, block):
    content = b"".join(line + end for line, end in lines) + (b"" if ends else b"last")
    starts = starts_of(content)
    with pytest.MonkeyPatch.context() as patch, text(scratch, content) as file:
        patch.setattr(records, "_LINE_BYTES", block)
        patch.setattr(records, "_BLOCK_BYTES", block)
        for at in range(len(content) + 1):
            assert next_line(file, at) == min(start for start in starts if start >= at)
        plain = Records(",", quoted=False)
        expected = [line for line in content.splitlines(keepends=True) if line.strip(b"\r\n\t ")]
        found = list(plain.of(file, 0))
        assert [record for _, record in found] == expected == plain.split(content)
        assert all(content[at : at + len(record)] == record for at, record in found)
        for number, start in enumerate(starts[:-1]):
            assert count_line_breaks(file, 0, start) == number


FIELDS = st.text(st.sampled_from('ab ,;"\n\r\té'), max_size=5)


@given(
    st.lists(st.lists(FIELDS, min_size=1, max_size=3), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 9),
)
def test_quoted_line_breaks(scratch, rows, end, block):
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    content = written.getvalue().encode()
    quoted = Records(",", quoted=True)
    with pytest.MonkeyPatch.context() as patch, text(scratch, content) as file:
        patch.setattr(records, "_LINE_BYTES", block)
        patch.setattr(records, "_BLOCK_BYTES", block)
        found = [record for _, record in quoted.of(file, 0)]
    assert quoted.split(content) == found
    assert [next(csv.reader(io.StringIO(record.decode(), newline=""))) for record in found] == rows


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'a,b"c\nd,e\n', [b'a,b"c\n', b"d,e\n"]),  # a mark within a field is part of it
        (b'"a""\n""b",c\nd\n', [b'"a""\n""b",c\n', b"d\n"]),
        (b'"a"x"\nb\n', [b'"a"x"\n', b"b\n"]),
        (b'"open\nb\nc', [b'"open\nb\nc']),
        (b'a,"open\nb\nc\n', [b'a,"open\nb\nc\n']),
        (b"\n \t\n\r\na\n", [b"a\n"]),
        (b"", []),
    ],
)
def test_marks_as_pandas_reads_them(tmp_path, content, expected):
    with text(tmp_path, content) as file:
        assert [record for _, record in Records(",", quoted=True).of(file, 0)] == expected


def test_a_line_of_tabs_is_not_blank_where_tabs_separate():
    assert Records("\t", quoted=False).split(b"a\n\t\n \n") == [b"a\n", b"\t\n"]
    assert Records(",", quoted=False).split(b"a\n\t\n \n") == [b"a\n"]


def test_a_record_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORD_BYTES", 5000)
    with (
        text(tmp_path, b'a\n"' + b"x\n" * 5000) as file,
        pytest.raises(LoadError, match=r"byte 2: a record of more than 5000 bytes; is a quotation mark"),
    ):
        list(Records(",", quoted=True).of(file, 0))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_streams_are_read_anywhere(tmp_path, pack, encoding, monkeypatch):
    monkeypatch.setattr(records, "_BLOCK_BYTES", 7)
    plain = "".join(f"zeile {n} ä\n" for n in range(20))
    end = {gzip.compress: "gz", bz2.compress: "bz2", lzma.compress: "xz"}[pack]
    with text(tmp_path, pack(plain.encode(encoding)), f"t.csv.{end}", encoding) as file:
        expected = plain.encode()
        assert file.read(0, 1000) == expected
        assert file.read(50, 20) == expected[50:70]
        assert file.read(90, 20) == expected[90:110]
        assert file.read(3, 20) == expected[3:23]
        assert file.read(1000, 20) == b""


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.bz2", "t.csv.xz"])
@pytest.mark.parametrize(
    "content", [b"no such thing", gzip.compress(b"x" * 1000, mtime=0)[:20], lzma.compress(b"x" * 1000)[:40]]
)
def test_a_damaged_stream(tmp_path, name, content):
    with text(tmp_path, content, name) as file, pytest.raises((LoadError, OSError)):
        file.read(0, 10_000)


def test_which_files_are_streams():
    assert is_stream("a.csv.GZ", "utf-8")
    assert is_stream("a.csv", "utf-16")
    assert is_stream("a.csv", "cp037")  # a mainframe's
    assert not any(is_stream("a.csv", name) for name in ("utf-8", "utf-8-sig", "latin-1", "cp1252", "gbk"))
    assert bytes_encoding("utf-16") == bytes_encoding("utf-8-sig") == bytes_encoding("utf-8") == "utf-8"
    assert bytes_encoding("cp1252") == "cp1252"


@pytest.mark.parametrize(
    ("content", "encoding", "expected"),
    [
        (b"\xef\xbb\xbfa,b\n1,2\n", "utf-8", (3, b"a,b\n", 7)),
        (b"\xef\xbb\xbfa,b\n1,2\n", "utf-8-sig", (3, b"a,b\n", 7)),
        (b"\n\na,b\r\n1,2\n", "utf-8", (2, b"a,b\r\n", 7)),
        ("a,b\n1,2\n".encode("utf-16"), "utf-16", (0, b"a,b\n", 4)),
        (b"\xef\xbb\xbf", "utf-8", (3, b"", 3)),
        (b"", "utf-8", (0, b"", 0)),
    ],
)
def test_the_first_record(tmp_path, content, encoding, expected):
    with text(tmp_path, content, encoding=encoding) as file:
        assert first_record(file, Records(",", quoted=False), encoding) == expected
