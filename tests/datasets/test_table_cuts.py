# SPDX-License-Identifier: Apache-2.0
"""All mini-batches of a table together are the table: random tables, cuts and spellings, against pandas."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from airflow_parallelrun.config import TableSize
from airflow_parallelrun.datasets import DataType, TabularDataset, list_files
from airflow_parallelrun.datasets.table import Table
from airflow_parallelrun.exceptions import EmptyInputError
from airflow_parallelrun.worker.loading import Loaded, Loader

DELIMITED, JSON_LINES = TabularDataset.from_delimited_files, TabularDataset.from_json_lines_files

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def loaded_of(dataset: TabularDataset, count: int, unit: str = "bytes") -> list[Loaded]:
    """Cut a table and load every mini-batch, as split and a process do."""
    table = Table(dataset, list(list_files(dataset.paths)), TableSize(count, unit))
    loader = Loader(json.loads(json.dumps([table.source])), [])
    lines = [[0, part.item] for part in table.parts()]
    found = [loader.load(line) for line in lines]
    for part, loaded in zip(table.parts(), found, strict=True):
        assert part.rows is None or part.rows == loaded.items
    return found


def frame_of(loaded: list[Loaded]) -> pd.DataFrame:
    """All rows; each mini-batch must have the same columns of the same types."""
    frames = [each.value for each in loaded if each.value is not None]
    for frame in frames:
        assert frame.dtypes.equals(frames[0].dtypes)
        assert list(frame.index) == list(range(len(frame)))
    for each in loaded:
        assert each.items == (0 if each.value is None else len(each.value)) + (
            len(each.wrong.rows) if each.wrong is not None else 0
        )
    return pd.concat(frames, ignore_index=True)


NUMBERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), min_size=1, max_size=8)
TRICKY = st.text(st.sampled_from('ab ,;\t"\n\ré'), min_size=1, max_size=6)


@st.composite
def tables(draw: Any, words: Any) -> pd.DataFrame:
    """A table with a column of each type; text never looks like something else, nor is it missing."""
    count = draw(st.integers(1, 12))

    def column(values: Any) -> Any:
        return draw(st.lists(values, min_size=count, max_size=count))

    return pd.DataFrame(
        {
            "whole": pd.Series(column(NUMBERS), dtype="int64"),
            "real": pd.Series(column(FLOATS | st.none()), dtype="float64"),
            "text": ["t" + word for word in column(words)],
            "truth": column(st.booleans()),
        }
    )


TYPES = {"whole": DataType.to_long(), "real": DataType.to_float(), "text": "string", "truth": "bool"}


@unhurried
@given(
    tables(PLAIN),
    st.sampled_from(["utf-8", "latin-1", "cp1252", "utf-16"]),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
    st.integers(1, 200),
    st.sampled_from(["bytes", "rows"]),
)
def test_csv(
    scratch: Path,
    table: pd.DataFrame,
    encoding: str,
    separator: str,
    end: str,
    quoting: Any,
    ends: bool,
    count: int,
    unit: str,
) -> None:
    written = table.to_csv(index=False, sep=separator, quoting=quoting, lineterminator=end)
    try:
        content = (written if ends else written.removesuffix(end)).encode(encoding)
    except UnicodeEncodeError:
        content = written.encode(encoding := "utf-8")
    path = scratch / "t.csv"
    path.write_bytes(content)
    dataset = DELIMITED(path, separator=separator, encoding=encoding, set_column_types=TYPES)
    found = loaded_of(dataset, count, unit)
    assert all(each.wrong is None for each in found)
    pd.testing.assert_frame_equal(frame_of(found), pd.read_csv(io.StringIO(written), sep=separator))
    if unit == "rows":
        sizes = [each.items for each in found]
        assert sizes[:-1] == [count] * (len(sizes) - 1)


@unhurried
@given(
    tables(TRICKY), st.sampled_from(["\n", "\r\n"]), st.integers(1, 200), st.sampled_from(["bytes", "rows"])
)
def test_csv_with_line_breaks_in_fields(
    scratch: Path, table: pd.DataFrame, end: str, count: int, unit: str
) -> None:
    path = scratch / "m.csv"
    path.write_bytes(table.to_csv(index=False, lineterminator=end, quoting=csv.QUOTE_ALL).encode())
    found = loaded_of(DELIMITED(path, support_multi_line=True, set_column_types=TYPES), count, unit)
    assert all(each.wrong is None for each in found)
    whole = pd.read_csv(io.BytesIO(path.read_bytes()), keep_default_na=False, na_values={"real": [""]})
    pd.testing.assert_frame_equal(frame_of(found), whole)


@unhurried
@given(tables(PLAIN), st.integers(1, 300), st.integers(1, 3))
def test_inferred_types_are_those_that_pandas_finds(
    scratch: Path, table: pd.DataFrame, count: int, files: int
) -> None:
    folder = scratch / f"inferred{files}"
    folder.mkdir(exist_ok=True)
    for number in range(files):
        table.to_csv(folder / f"{number}.csv", index=False)
    whole = pd.concat([pd.read_csv(file) for file in sorted(folder.iterdir())], ignore_index=True)
    if whole["real"].isna().all():
        whole["real"] = whole["real"].astype(whole["text"].dtype)
    pd.testing.assert_frame_equal(frame_of(loaded_of(DELIMITED(folder), count)), whole)


JSON_VALUES = {
    "whole": NUMBERS,
    "real": FLOATS | st.none(),
    "text": st.text(st.characters(codec="utf-8"), max_size=5) | st.none(),
    "truth": st.booleans(),
    "nested": st.lists(st.integers()) | st.dictionaries(st.text(max_size=2), st.none()),
}


@unhurried
@given(
    st.lists(st.fixed_dictionaries(JSON_VALUES), min_size=1, max_size=10),
    st.booleans(),
    st.integers(1, 200),
    st.sampled_from(["bytes", "rows"]),
)
def test_json_lines(
    scratch: Path, rows: list[dict[str, Any]], ascii_only: bool, count: int, unit: str
) -> None:
    path = scratch / "t.jsonl"
    # Python's lone surrogates are no text; hypothesis makes none with this codec.
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows), "utf-8", newline=""
    )
    types = {"whole": "int64", "real": "float64", "text": "string", "truth": "bool"}
    found = loaded_of(JSON_LINES(path, set_column_types=types), count, unit)
    assert all(each.wrong is None for each in found)
    frame = frame_of(found)
    assert list(frame.columns) == list(rows[0])
    assert list(frame["whole"]) == [row["whole"] for row in rows]
    assert list(frame["nested"]) == [row["nested"] for row in rows]
    for name in ("real", "text"):
        assert [None if pd.isna(value) else value for value in frame[name]] == [row[name] for row in rows]


@unhurried
@given(
    tables(PLAIN),
    st.integers(1, 5),
    st.integers(1, 300),
    st.sampled_from(["bytes", "rows"]),
    st.integers(1, 3),
)
def test_parquet(scratch: Path, table: pd.DataFrame, group: int, count: int, unit: str, files: int) -> None:
    folder = scratch / f"parquet{files}"
    folder.mkdir(exist_ok=True)
    for number in range(files):
        parquet.write_table(
            pa.Table.from_pandas(table, preserve_index=False),
            folder / f"{number}.parquet",
            row_group_size=group,
        )
    dataset = TabularDataset.from_parquet_files(folder)
    whole = parquet.read_table(folder).to_pandas()
    pd.testing.assert_frame_equal(frame_of(loaded_of(dataset, count, unit)), whole)


def test_parquet_with_missing_whole_numbers_in_one_row_group(scratch: Path) -> None:
    path = scratch / "holes.parquet"
    table = pa.table(
        {"n": [1, 2, 3, None], "b": [True, False, None, True], "i8": pa.array([1, 2, 3, 4], "int8")}
    )
    parquet.write_table(table, path, row_group_size=2)
    frame = frame_of(loaded_of(TabularDataset.from_parquet_files(path), 1, "rows"))
    assert [str(kind) for kind in frame.dtypes] == ["float64", "object", "int8"]
    pd.testing.assert_frame_equal(frame, table.to_pandas())


def test_parquet_is_decoded_forwards_backwards_and_with_gaps(scratch: Path) -> None:
    path = scratch / "walk.parquet"
    parquet.write_table(pa.table({"n": list(range(20_000))}), path, row_group_size=15_000)
    dataset = TabularDataset.from_parquet_files(path)
    table = Table(dataset, list(list_files(dataset.paths)), TableSize(1000, "rows"))
    loader = Loader([table.source], [])
    parts = list(table.parts())
    for place in (0, 3, 4, 14, 2, 19, 18, 18, 15, 0):
        part = parts[place]
        loaded = loader.load([0, part.item])
        assert (
            list(loaded.value["n"])
            == list(range(part.first, part.end))
            == list(range(1000 * place, 1000 * place + 1000))
        )


@unhurried
@given(
    st.integers(0, 25),
    st.integers(0, 25),
    st.booleans(),
    st.sampled_from(["csv", "jsonl", "parquet"]),
    st.integers(1, 90),
)
def test_some_of_the_rows(
    scratch: Path, skip: int, take: int, first_take: bool, kind: str, count: int
) -> None:
    folder = scratch / f"some-{kind}"
    folder.mkdir(exist_ok=True)
    for number in range(2):
        frame = pd.DataFrame({"n": range(10 * number, 10 * number + 10)})
        path = folder / f"{number}.{kind}"
        if kind == "csv":
            frame.to_csv(path, index=False)
        elif kind == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path, row_group_size=4)
    make = {"csv": DELIMITED, "jsonl": JSON_LINES, "parquet": TabularDataset.from_parquet_files}[kind]
    dataset = make(folder)
    dataset = dataset.take(take).skip(skip) if first_take else dataset.skip(skip).take(take)
    expected = list(range(20))
    expected = expected[:take][skip:] if first_take else expected[skip:][:take]
    found = loaded_of(dataset, count)
    assert [n for each in found for n in each.value["n"].tolist()] == expected
    assert sum(each.items for each in found) == len(expected)


def test_columns_path_and_keys(scratch: Path) -> None:
    for store in (1, 2):
        folder = scratch / "keys" / f"Store={store}"
        folder.mkdir(parents=True)
        (folder / "x.csv").write_text(f"a,b,c\n{store},x,y\n")
    dataset = DELIMITED(scratch / "keys", partition_format="Store={Store}/*.csv", include_path=True)
    frame = frame_of(loaded_of(dataset, 1000))
    assert list(frame.columns) == ["a", "b", "c", "Store", "Path"]
    assert list(frame["Store"]) == ["1", "2"]
    assert [Path(path).parent.name for path in frame["Path"]] == ["Store=1", "Store=2"]
    kept = frame_of(loaded_of(dataset.keep_columns(["Store", "c"]), 1000))
    assert list(kept.columns) == ["Store", "c"]
    dropped = frame_of(loaded_of(dataset.drop_columns("Path").drop_columns(["a"]), 1000))
    assert list(dropped.columns) == ["b", "c", "Store"]


HEADERS = {
    "all_files_same_headers": ("a,b\n1,2\n", "a,b\n3,4\n", ["a", "b"], [[1, 2], [3, 4]]),
    "no_header": ("1,2\n", "3,4\n", ["Column1", "Column2"], [[1, 2], [3, 4]]),
    "from_first_file": ("a,b\n1,2\n", "3,4\n", ["a", "b"], [[1, 2], [3, 4]]),
    "all_files_different_headers": (
        "a,b\n1,2\n",
        "b,c\n3,4\n",
        ["a", "b", "c"],
        [[1, 2, None], [None, 3, 4]],
    ),
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_headers(tmp_path: Path, header: str, count: int) -> None:
    one, two, names, rows = HEADERS[header]
    (tmp_path / "1.csv").write_text(one)
    (tmp_path / "2.csv").write_text(two)
    (tmp_path / "3.csv").write_text("")
    frame = frame_of(loaded_of(DELIMITED(tmp_path, header=header), count))
    assert list(frame.columns) == names
    assert [[None if pd.isna(value) else value for value in row] for row in frame.to_numpy().tolist()] == rows


def test_a_file_with_another_header_is_not_read_as_if_it_had_the_first_ones(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("b,a\n1,2\n3,4\n")
    good, bad = loaded_of(DELIMITED(tmp_path), 1000)
    assert len(good.value) == 1
    assert (bad.value, bad.items) == (None, 0)
    assert "2.csv has the header 'b', 'a'; that of the first file is 'a', 'b'" in str(bad.wrong)


def test_names_of_columns_are_those_of_pandas(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,a,,"b c",a.1,\n1,2,3,4,5,6\n')
    frame = frame_of(loaded_of(DELIMITED(path), 1000))
    assert list(frame.columns) == list(pd.read_csv(path).columns)


def test_dates(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("day,when\n01.02.2026,2026-02-01T12:00:00+01:00\n,2026-02-01 11:00:00.5\nx,\n")
    types = {"day": DataType.to_datetime("%d.%m.%Y"), "when": DataType.to_datetime()}
    (loaded,) = loaded_of(DELIMITED(path, set_column_types=types), 1000)
    assert [str(kind) for kind in loaded.value.dtypes] == ["datetime64[ns]"] * 2
    assert loaded.value["when"].tolist() == [
        pd.Timestamp("2026-02-01 11:00"),
        pd.Timestamp("2026-02-01 11:00:00.5"),
    ]
    assert loaded.value["day"].tolist() == [pd.Timestamp("2026-02-01"), pd.NaT]
    assert loaded.wrong.rows == [(f"{path}, line 4", "day", "'x' is not datetime:%d.%m.%Y")]


def test_missing_values_of_text_and_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("country,n\nNA,NA\n,1\nnull,2.5\n")
    frame = frame_of(loaded_of(DELIMITED(path), 1000))
    assert frame["country"].tolist()[::2] == ["NA", "null"]
    assert frame["country"].isna().tolist() == [False, True, False]
    assert frame["n"].isna().tolist() == [True, False, False]
    frame = frame_of(loaded_of(DELIMITED(path, empty_as_string=True), 1000))
    assert frame["country"].tolist() == ["NA", "", "null"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_rows_that_do_not_fit(tmp_path: Path, end: str, count: int) -> None:
    path = tmp_path / "t.csv"
    rows = [
        "n,x,t",
        "1,1.5,a",
        "two,2.5,b",
        "",
        "3,3.5,c,d",
        ",4.5,e",
        "5,oops,f",
        '6,6.5,"g',
        "7",
        "8,8.5,h,",
    ]
    path.write_text(end.join(rows) + end, newline="")
    types = {"n": "int64", "x": "float64", "t": "string"}
    found = loaded_of(DELIMITED(path, set_column_types=types), count)
    assert frame_of(found)["n"].tolist() == [1, 7, 8]
    wrong = [row for each in found if each.wrong is not None for row in each.wrong.rows]
    broken = f'6,6.5,"g{end}'
    assert wrong == [
        (f"{path}, line 3", "n", "'two' is not int64"),
        (f"{path}, line 5", None, "4 fields for 3 columns"),
        (f"{path}, line 6", "n", "the value is missing; the column is int64"),
        (f"{path}, line 7", "x", "'oops' is not float64"),
        (
            f"{path}, line 8",
            None,
            f"{broken!r}: a quotation mark is not closed; a field of several lines needs support_multi_line",
        ),
    ]
    assert sum(each.items for each in found) == 8


def test_an_undecodable_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n1,x\n2,\xff\n3,z\n")
    (loaded,) = loaded_of(DELIMITED(path, set_column_types={"a": "int64", "b": "string"}), 1000)
    assert loaded.value["a"].tolist() == [1, 3]
    assert loaded.wrong.rows[0][::2] == (f"{path}, line 3", "'2,\ufffd\\n' is not utf-8: invalid start byte")


def test_json_rows_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [
        '{"a": 1, "b": "x"}',
        "{",
        "[1]",
        '{"a": "1"}',
        '{"b": "y"}',
        '{"a": 2, "c": 3}',
        '{"a": NaN}',
        '{"a": 5}',
    ]
    path.write_text("\n".join(lines))
    types = {"a": "int64", "b": "string"}
    found = loaded_of(JSON_LINES(path, set_column_types=types), 30)
    assert frame_of(found)["a"].tolist() == [1, 2, 5]
    wrong = [row for each in found if each.wrong is not None for row in each.wrong.rows]
    assert [row[0] for row in wrong] == [f"{path}, line {number}" for number in (2, 3, 4, 5, 7)]


def test_a_key_that_the_sample_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_parallelrun.datasets.text_files.SAMPLE_BYTES", 10)
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1, "b": 2}\n{"a": 2, "c": 3, "b": 1}\n{"a": 3, "b": 1}\n')
    (loaded,) = loaded_of(JSON_LINES(path), 1000)
    assert loaded.value["a"].tolist() == [1, 3]
    assert loaded.wrong.rows[0][1] == "c"
    (loaded,) = loaded_of(JSON_LINES(path).keep_columns(["a"]), 1000)
    assert (loaded.wrong, loaded.value["a"].tolist()) == (None, [1, 2, 3])


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_table_without_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(EmptyInputError, match="the input has no row"):
        loaded_of(DELIMITED(path), 1000)
    path.write_bytes(gzip.compress(b"a,b\n") if name.endswith("gz") else b"a,b\n")
    assert [each.items for each in loaded_of(DELIMITED(path), 1000)] in ([], [0])


def test_splitting_a_hundred_gigabytes_reads_next_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with path.open("wb") as file:
        file.write(b"a,b\n" + b"1,2\n" * 300_000)
        file.truncate(100 << 30)  # sparse: to read it would take minutes
    dataset = DELIMITED(path)
    table = Table(dataset, list(list_files(dataset.paths)), TableSize(1 << 20, "bytes"))
    count = last = 0
    for part in table.parts():
        assert part.first == last
        count, last = count + 1, part.end
    assert (count, last) == (100 << 10, 100 << 30)
