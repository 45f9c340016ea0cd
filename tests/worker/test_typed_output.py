# SPDX-License-Identifier: Apache-2.0
"""What run() may return, and the bytes of each kind of value in each format that rows may have."""

from __future__ import annotations

import datetime
import decimal
import importlib
import json
import sys
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from airflow_parallelrun.worker.errors import ContractError, ReturnValueError
from airflow_parallelrun.worker.output import SETTINGS_FILE, Origin, RowFormatter

ORIGIN = Origin(7, ["/in/a b", "/in/c"], 3, 2)
TYPED = ("csv", "jsonl", "parquet")


class Run:
    """Answers as the nodes of a run do: what was asked for first holds, of each version."""

    def __init__(self):
        self.held = {}

    def agree(self, header, version=0):
        return self.held.setdefault(version, header)


@pytest.fixture
def formatter(tmp_path):
    def make(row_format, run=None, **given):
        run = run or Run()
        agree = None if row_format == "text" else run.agree
        return RowFormatter(str(tmp_path), True, agree=agree, row_format=row_format, **given)

    return make


def table(rows):
    """The rows of any number of mini-batches, as reduce reads them."""
    source, tables = pa.BufferReader(rows), []
    while source.tell() < len(rows):
        tables.append(pa.ipc.open_stream(source).read_all())
    return pa.concat_tables(tables)


FRAME = pd.DataFrame({"name": ["x y", 'q"u', "a,b"], "score": [0.5, None, 1e-7], "ok": [True, False, True]})
MOMENT = datetime.datetime(2026, 11, 25, 12, 30)

# Of each value: text, CSV with its header, JSON lines, and what is read of the Arrow stream.
GOLDEN = {
    "frame": (
        FRAME,
        '"x y" 0.5 True\n"q""u"  False\na,b 1e-07 True\n',
        'name,score,ok\nx y,0.5,True\n"q""u",,False\n"a,b",1e-07,True\n',
        '{"name":"x y","score":0.5,"ok":true}\n{"name":"q\\"u","score":null,"ok":false}\n'
        '{"name":"a,b","score":1e-07,"ok":true}\n',
        {"name": ["x y", 'q"u', "a,b"], "score": [0.5, None, 1e-7], "ok": [True, False, True]},
    ),
    "list of text": (
        ["a,b", "é", 'q"u', ""],
        'a,b\né\nq"u\n\n',
        'result\n"a,b"\né\n"q""u"\n""\n',
        '{"result":"a,b"}\n{"result":"é"}\n{"result":"q\\"u"}\n{"result":""}\n',
        {"result": ["a,b", "é", 'q"u', ""]},
    ),
    "list of numbers": (
        [1, 2.5, None, float("nan")],
        "1\n2.5\nNone\nnan\n",
        'result\n1\n2.5\n""\n""\n',
        '{"result":1}\n{"result":2.5}\n{"result":null}\n{"result":null}\n',
        {"result": [1.0, 2.5, None, None]},
    ),
    "tuple": ((True,), "True\n", "result\nTrue\n", '{"result":true}\n', {"result": [True]}),
    "list of lists": (
        [["a.png", 1], {7}],
        "['a.png', 1]\n{7}\n",
        "result\n\"['a.png', 1]\"\n{7}\n",
        '{"result":["a.png",1]}\n{"result":"{7}"}\n',
        {"result": ["['a.png', 1]", "{7}"]},
    ),
    "list of dicts": (
        [{"a": 1, 2: "x\ny"}, {2: None, "a": np.int64(3)}],
        "{'a': 1, 2: 'x\\ny'}\n{2: None, 'a': np.int64(3)}\n",
        'a,2\n1,"x\ny"\n3,\n',
        '{"a":1,"2":"x\\ny"}\n{"2":null,"a":3}\n',
        {"a": [1, 3], "2": ["x\ny", None]},
    ),
    "array": (
        np.array([0.1, 2], dtype="float32"),
        "0.10000000149011612\n2.0\n",
        "result\n0.1\n2.0\n",
        '{"result":0.10000000149011612}\n{"result":2.0}\n',
        {"result": [0.10000000149011612, 2.0]},
    ),
    "array of text": (
        np.array(["x", "yz"]),
        "x\nyz\n",
        "result\nx\nyz\n",
        '{"result":"x"}\n{"result":"yz"}\n',
        {"result": ["x", "yz"]},
    ),
    "array of dates": (
        np.array(["2026-11-25T12:30:00.5", "NaT"], dtype="datetime64[ns]"),
        "2026-11-25T12:30:00.500000000\nNaT\n",
        'result\n2026-11-25T12:30:00.500000000\n""\n',
        '{"result":"2026-11-25T12:30:00.500000000"}\n{"result":null}\n',
        {"result": [pd.Timestamp("2026-11-25T12:30:00.5"), None]},
    ),
    "array of two dimensions": (
        np.array([[1.5, 0.1], [np.nan, 2]], dtype="float32"),
        "1.5 0.1\n 2.0\n",
        "0,1\n1.5,0.1\n,2.0\n",
        '{"0":1.5,"1":0.10000000149011612}\n{"0":null,"1":2.0}\n',
        {"0": [1.5, None], "1": [0.10000000149011612, 2.0]},
    ),
    "series": (
        pd.Series(["x y", None], name="label", index=[5, 6]),
        '"x y"\n""\n',
        'label\nx y\n""\n',
        '{"label":"x y"}\n{"label":null}\n',
        {"label": ["x y", None]},
    ),
    "series without a name": (
        pd.Series([1, 2]),
        "1\n2\n",
        "result\n1\n2\n",
        '{"result":1}\n{"result":2}\n',
        {"result": [1, 2]},
    ),
    "table": (
        pa.table({"n": pa.array([1, None]), "s": ["x y", None], "when": pa.array([MOMENT, None])}),
        '1.0 "x y" "2026-11-25 12:30:00"\n  \n',
        "n,s,when\n1,x y,2026-11-25 12:30:00\n,,\n",
        '{"n":1,"s":"x y","when":"2026-11-25T12:30:00"}\n{"n":null,"s":null,"when":null}\n',
        {"n": [1, None], "s": ["x y", None], "when": [MOMENT, None]},
    ),
    "record batch": (
        pa.record_batch({"n": [1], "l": [[1, 2]]}),
        '1 "[1 2]"\n',
        'n,l\n1,"[1, 2]"\n',
        '{"n":1,"l":[1,2]}\n',
        {"n": [1], "l": [[1, 2]]},
    ),
    "dates": (
        pd.DataFrame({"at": pd.to_datetime(["2026-11-25", None]), "day": [datetime.date(2026, 1, 2), None]}),
        "2026-11-25 2026-01-02\n \n",
        "at,day\n2026-11-25 00:00:00,2026-01-02\n,\n",
        '{"at":"2026-11-25T00:00:00","day":"2026-01-02"}\n{"at":null,"day":null}\n',
        {"at": [datetime.datetime(2026, 11, 25), None], "day": [datetime.date(2026, 1, 2), None]},
    ),
    "nullable and categories": (
        pd.DataFrame(
            {"n": pd.array([1, None], dtype="Int64"), "c": pd.Categorical(["x", None]), 3: [[1], None]}
        ),
        "1 x [1]\n  \n",
        "n,c,3\n1,x,[1]\n,,\n",
        '{"n":1,"c":"x","3":[1]}\n{"n":null,"c":null,"3":null}\n',
        {"n": [1, None], "c": ["x", None], "3": [[1], None]},
    ),
}  # fmt: skip
EMPTY = {
    "list": [],
    "tuple": (),
    "array": np.zeros(0),
    "rows": np.zeros((0, 3)),
    "frame": pd.DataFrame({"a": []}),
    "series": pd.Series([], dtype=float),
    "table": pa.table({"a": pa.array([], "int8")}),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_text(formatter, name):
    value, text, *_ = GOLDEN[name]
    made = formatter("text")
    assert made.rows(value, ORIGIN).decode() == text
    assert made.header == b""


@pytest.mark.parametrize("name", GOLDEN)
def test_csv(formatter, name):
    value, _, text, *_ = GOLDEN[name]
    made = formatter("csv")
    rows = made.rows(value, ORIGIN)
    assert (made.header + rows).decode() == made.shown(rows) == text
    assert made.rows(value, ORIGIN) == rows


@pytest.mark.parametrize("name", GOLDEN)
def test_json_lines(formatter, name):
    value, _, _, text, _ = GOLDEN[name]
    made = formatter("jsonl")
    rows = made.rows(value, ORIGIN)
    assert (made.header + rows).decode() == made.shown(rows) == text


@pytest.mark.parametrize("name", GOLDEN)
def test_parquet(formatter, name):
    *_, columns = GOLDEN[name]
    made = formatter("parquet")
    rows = made.rows(GOLDEN[name][0], ORIGIN)
    assert table(rows).to_pydict() == columns
    assert made.header == b""
    assert table(rows + made.rows(GOLDEN[name][0], ORIGIN)).num_rows == 2 * table(rows).num_rows


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("append_row", [True, False])
def test_every_kind_is_counted_along_its_first_axis(tmp_path, name, append_row):
    value = GOLDEN[name][0]
    strict = RowFormatter(str(tmp_path), append_row, strict=True)
    assert strict.count(value, 9) == len(value)
    with pytest.raises(ReturnValueError, match="strict_returns"):
        strict.count(value, len(value) - 1)


@pytest.mark.parametrize("row_format", ["text", *TYPED])
@pytest.mark.parametrize("name", EMPTY)
def test_what_is_empty_writes_nothing(formatter, name, row_format):
    made = formatter(row_format, run := Run())
    assert made.count(EMPTY[name], 9) == 0
    assert made.rows(EMPTY[name], ORIGIN) == made.header == b""
    assert made.shown(b"") == ""
    assert run.held == {}


@pytest.mark.parametrize("row_format", ["text", *TYPED])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 3, 4)), r"array of 3 dimensions.*array\.reshape\(len\(array\), -1\)"),
        (
            np.array([(1, "x")], dtype=[("a", int), ("b", "U1")]),
            r"structured array.*pandas\.DataFrame\(array\)",
        ),
    ],
)
def test_arrays_without_rows_and_columns_say_what_to_do(formatter, row_format, value, message):
    made = formatter(row_format)
    assert made.count(value, 9) == len(value)
    with pytest.raises(ReturnValueError, match=message):
        made.rows(value, ORIGIN)


def test_in_summary_only_values_are_counted_whatever_their_form(tmp_path):
    for row_format in TYPED:
        made = RowFormatter(str(tmp_path), False, row_format=row_format)
        assert made.count(np.zeros((2, 3, 4)), 9) == 2
        assert made.rows([object()], ORIGIN) == b""


def test_without_pandas_a_table_as_text_says_what_is_missing(formatter, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for value in (np.zeros((1, 2)), pa.table({"a": [1]})):
        with pytest.raises(
            ReturnValueError, match=r"pandas.*cannot import.*Install pandas, or return a list"
        ):
            formatter("text").rows(value, ORIGIN)
    assert formatter("csv").rows(pa.table({"a": [1]}), ORIGIN) == b"1\n"
    assert formatter("jsonl").rows(np.zeros((1, 2)), ORIGIN) == b'{"0":0.0,"1":0.0}\n'


@pytest.mark.parametrize("row_format", TYPED)
@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame([[1, 2]], columns=["1", 1]),
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]),
        [{1: 0, "1": 0}],
    ],
    ids=["frame", "as text", "table", "dict"],
)
def test_two_columns_of_one_name(formatter, row_format, value):
    with pytest.raises(ReturnValueError, match=r"two columns with the name '(a|1)'.*append_row_format text"):
        formatter(row_format).rows(value, ORIGIN)


@pytest.mark.parametrize("row_format", TYPED)
def test_rows_without_a_column(formatter, row_format):
    with pytest.raises(ReturnValueError, match="2 rows without a column"):
        formatter(row_format).rows(pd.DataFrame(index=[0, 1]), ORIGIN)


# Columns and their order.


@pytest.mark.parametrize("row_format", ["csv", "parquet"])
def test_columns_are_known_by_their_names(formatter, row_format):
    made = formatter(row_format)
    first = made.rows(pd.DataFrame({"a": [1], "b": [2]}), ORIGIN)
    assert made.rows(pd.DataFrame({"b": [2], "a": [1]}), ORIGIN) == first
    assert made.rows([{"b": 2, "a": 1}], ORIGIN) == first


@pytest.mark.parametrize("row_format", ["csv", "parquet"])
def test_what_another_process_began_holds_here(formatter, row_format):
    run = Run()
    formatter(row_format, run).rows([{"a": 1, "b": 2}], ORIGIN)
    made = formatter(row_format, run)
    with pytest.raises(
        ReturnValueError, match=r"the columns 'a'; the first rows of this run had 'a, b'.*jsonl"
    ):
        made.rows([{"a": 1}], ORIGIN)
    assert made.rows([{"b": 2, "a": 1}], ORIGIN) == formatter(row_format, run).rows(
        [{"a": 1, "b": 2}], ORIGIN
    )


@pytest.mark.parametrize("row_format", ["csv", "parquet"])
def test_all_dicts_of_a_list_have_the_same_keys(formatter, row_format):
    with pytest.raises(ReturnValueError, match="the columns 'a'; the first rows of this run had 'a, b'"):
        formatter(row_format).rows([{"a": 1, "b": 2}, {"a": 3}], ORIGIN)
    with pytest.raises(ReturnValueError, match="dicts and other elements in one list"):
        formatter(row_format).rows([{"a": 1}, 3], ORIGIN)


def test_json_lines_may_each_have_their_own_keys(formatter):
    rows = formatter("jsonl").rows([{"a": 1}, {"b": {"c": [None]}}, 3, {}], ORIGIN)
    assert rows == b'{"a":1}\n{"b":{"c":[null]}}\n{"result":3}\n{}\n'


# Provenance.

PROVENANCE = ("mini_batch", "source", "row", "try", "model_version")


@pytest.mark.parametrize("value", [["x", "y"], pd.DataFrame({"result": ["x", "y"]})], ids=["list", "frame"])
def test_provenance_columns_have_names_and_types(formatter, value):
    rows = {}
    for row_format in TYPED:
        made = formatter(row_format, provenance=PROVENANCE)
        made.models += ["mnist:3", "scaler:1"]
        rows[row_format] = made.rows(value, ORIGIN)
        if row_format == "csv":
            assert made.header == b"result,mini_batch,source,row,try,model_version\n"
    assert rows["csv"] == b'x,7,/in/a b,3,2,"mnist:3,scaler:1"\ny,7,/in/c,4,2,"mnist:3,scaler:1"\n'
    assert rows["jsonl"].splitlines()[1] == (
        b'{"result":"y","mini_batch":7,"source":"/in/c","row":4,"try":2,"model_version":"mnist:3,scaler:1"}'
    )
    read = table(rows["parquet"])
    assert read.column("row").to_pylist() == [3, 4]
    assert [str(field.type) for field in read.schema][1:] == ["int64", "string", "int64", "int64", "string"]


def test_what_is_not_known_is_missing_and_has_a_type_all_the_same(formatter):
    given = {"provenance": ("source", "model_version")}
    assert formatter("csv", **given).rows(["x"], ORIGIN) == b"x,,\n"
    assert (
        formatter("jsonl", **given).rows(["x"], ORIGIN)
        == b'{"result":"x","source":null,"model_version":null}\n'
    )
    read = table(formatter("parquet", **given).rows(["x"], ORIGIN))
    assert [str(field.type) for field in read.schema] == ["string"] * 3
    assert read.to_pylist() == [{"result": "x", "source": None, "model_version": None}]


def test_model_versions_stand_behind_text_as_well(formatter):
    made = formatter("text", provenance=("try", "model_version"))
    assert made.rows(["x"], ORIGIN) == b"x 2 \n"
    made.models.append("mnist:3")
    assert made.rows(["x"], ORIGIN) == b"x 2 mnist:3\n"
    assert made.rows(pd.DataFrame({"a": [1]}), ORIGIN) == b"1 2 mnist:3\n"


@pytest.mark.parametrize("row_format", TYPED)
def test_a_provenance_column_takes_no_name_away(formatter, row_format):
    with pytest.raises(ReturnValueError, match="a column 'row', which is a provenance column"):
        formatter(row_format, provenance=("row",)).rows([{"row": 1}], ORIGIN)


def test_a_file_name_that_is_not_utf_8(formatter):
    origin = Origin(0, [b"/in/\xff".decode("utf-8", "surrogateescape")], None, 1)
    given = {"provenance": ("source",)}
    assert formatter("csv", **given).rows(["x"], origin) == b"x,/in/\xff\n"
    (line,) = formatter("jsonl", **given).rows(["x"], origin).decode().splitlines()
    assert json.loads(line)["source"] == origin.paths[0]
    assert table(formatter("parquet", **given).rows(["x"], origin)).column("source").to_pylist() == [
        "/in/\\udcff"
    ]


# What stands in a field.


def test_csv_quotes_what_would_be_read_as_something_else(formatter):
    made = formatter("csv")
    rows = made.rows([{"a\nb": "x\ry", '"': " z "}], ORIGIN)
    assert (made.header, rows) == (b'"a\nb",""""\n', b'"x\ry", z \n')


def test_csv_is_what_pandas_writes(formatter):
    frame = pd.DataFrame({"i": [1, -2], "f": [1e300, 0.1], "g": np.float32([1e-5, 3]), "s": ["a\nb", ""]})
    made = formatter("csv")
    rows = made.rows(frame, ORIGIN)
    assert (made.header + rows).decode() == frame.to_csv(index=False)


def test_long_arrays_in_a_field_are_whole(formatter):
    long = np.arange(2000)
    for value in ([long], [{"v": long}], pd.DataFrame({"v": [long]})):
        text = formatter("csv").rows(value, ORIGIN).decode()
        assert json.loads(text.strip().strip('"')) == long.tolist()
        (row,) = formatter("jsonl").rows(value, ORIGIN).decode().splitlines()
        assert [*json.loads(row).values()] == [long.tolist()]


def test_json_has_a_form_for_everything(formatter):
    values = {
        "inf": float("-inf"),
        "nested": [float("nan"), np.float32("nan"), {"x": (np.nan, pd.NA, pd.NaT)}],
        "numpy": [np.int8(1), np.bool_(True), np.float32(0.5), np.str_("s"), np.arange(2.0)],
        "time": [MOMENT, MOMENT.date(), MOMENT.time(), pd.Timestamp("2026-01-01", tz="UTC")],
        "numpy time": np.array([["2026-01-01", "NaT"]], dtype="datetime64[D]"),
        "long": np.timedelta64(5, "s"),
        "series": pd.Series([1, 2]),
        "decimal": decimal.Decimal("1.10"),
        "id": uuid.UUID(int=1),
        "keys": {1: "x", None: "y", ("a", 1): "z", "nan": np.nan},
        "日本": "é\u2028",
    }
    (line,) = formatter("jsonl").rows([values], ORIGIN).decode().split("\n")[:-1]

    def refuse(name):
        raise AssertionError(name)

    assert json.loads(line, parse_constant=refuse) == {
        "inf": None,
        "nested": [None, None, {"x": [None, None, None]}],
        "numpy": [1, True, 0.5, "s", [0.0, 1.0]],
        "time": ["2026-11-25T12:30:00", "2026-11-25", "12:30:00", "2026-01-01T00:00:00+00:00"],
        "numpy time": [["2026-01-01", None]],
        "long": "5 seconds",
        "series": [1, 2],
        "decimal": "1.10",
        "id": str(uuid.UUID(int=1)),
        "keys": {"1": "x", "None": "y", "('a', 1)": "z", "nan": None},
        "日本": "é\u2028",
    }
    assert "日本" in line


# Parquet's types.


def test_the_first_rows_make_the_types_and_later_ones_are_converted(formatter):
    made = formatter("parquet")
    rows = made.rows(pd.DataFrame({"n": pd.array([1], dtype="Int64"), "f": [0.5], "s": ["x"]}), ORIGIN)
    rows += made.rows([{"n": None, "f": 1, "s": None}], ORIGIN)
    rows += made.rows(pd.DataFrame({"n": [2.0, None], "f": np.float32([0.25, 1]), "s": ["y", None]}), ORIGIN)
    read = table(rows)
    assert [str(field.type) for field in read.schema][:2] == ["int64", "double"]
    assert read.column("n").to_pylist() == [1, None, 2, None]
    assert read.column("f").to_pylist() == [0.5, 1.0, 0.25, 1.0]
    assert read.column("s").to_pylist() == ["x", None, "y", None]


@pytest.mark.parametrize(
    ("first", "other", "shown", "types"),
    [
        ([1], [*range(99), 2.5, 7], "2.5", ("double", "int64")),
        ([1], ["1", "x", "y"], "'x'", ("string", "int64")),
        ([True], [0, 1, 2], "2", ("int64", "bool")),
        ([{"v": [1]}], [{"v": ["x"]}], r"\['x'\]", ("list", "list")),
        (pa.table({"v": pa.array([1], "int8")}), pa.table({"v": [1, 300]}), "300", ("int64", "int8")),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_both_types(formatter, first, other, shown, types):
    made = formatter("parquet")
    made.rows(first, ORIGIN)
    message = rf"returned {shown} in the column \'(v|result)\', as {types[0]}.*that column is {types[1]}"
    with pytest.raises(ReturnValueError, match=message):
        made.rows(other, ORIGIN)


def test_values_without_a_common_type_are_named_by_their_column(formatter):
    for value in ([1, "x"], [{"result": 1}, {"result": [2]}], [2**70], [{"result": 1 + 2j}]):
        with pytest.raises(ReturnValueError, match="in the column 'result'"):
            formatter("parquet").rows(value, ORIGIN)


def test_a_column_gets_its_type_from_its_first_value(formatter):
    run = Run()
    one, other = formatter("parquet", run), formatter("parquet", run)
    early = one.rows([{"name": "x", "error": None, "tags": []}], ORIGIN)
    assert str(table(early).schema.field("error").type) == "null"
    other.rows([{"name": "x", "error": "E", "tags": []}], ORIGIN)
    one.rows([{"name": "x", "error": None, "tags": ["t"]}], ORIGIN)
    assert sorted(run.held) == [0, 1, 2]
    late = table(one.rows([{"name": "x", "error": None, "tags": []}], ORIGIN))
    assert [str(field.type) for field in late.schema] == ["string", "string", "list<item: string>"]
    assert table(other.rows([{"name": "x", "error": None, "tags": ["t"]}], ORIGIN)).schema == late.schema
    with pytest.raises(ReturnValueError, match=r"'error', as list.*that column is string"):
        one.rows([{"name": "x", "error": [2], "tags": []}], ORIGIN)
    # As reduce does with what was written before there was a type.
    assert table(early).cast(late.schema).to_pylist() == [{"name": "x", "error": None, "tags": []}]


def test_decimals_may_become_longer(formatter):
    made = formatter("parquet")
    rows = made.rows([decimal.Decimal("9.99")], ORIGIN) + made.rows([decimal.Decimal("1000.5")], ORIGIN)
    assert table(rows).column("result").to_pylist() == [decimal.Decimal("9.99"), decimal.Decimal("1000.50")]


def test_types_are_kept(formatter):
    given = pa.table(
        {
            "i": pa.array([1], "uint8"),
            "t": pa.array([MOMENT], pa.timestamp("us", "Europe/Berlin")),
            "b": pa.array([b"\0"]),
            "d": pa.array([decimal.Decimal("1.5")], pa.decimal128(5, 2)),
            "l": pa.array([[0.5]], pa.list_(pa.float32())),
            "c": pa.array(["x"]).dictionary_encode(),
        }
    )
    read = table(formatter("parquet").rows(given, ORIGIN))
    assert read.schema.types == [*given.schema.types[:-1], pa.string()]
    assert read.to_pylist() == given.to_pylist()


def test_types_of_frames_are_arrows(formatter):
    frame = pd.DataFrame(
        {
            "t": pd.to_datetime(["2026-11-25", None]).tz_localize("Europe/Berlin"),
            "d": pd.to_timedelta([1, None], "s"),
            "f": np.float32([0.5, np.nan]),
            "b": pd.array([True, None], dtype="boolean"),
            "l": [[0.5], None],
        }
    )
    read = table(formatter("parquet").rows(frame, ORIGIN))
    assert [str(type_).partition("[")[0] for type_ in read.schema.types] == [
        "timestamp",
        "duration",
        "float",
        "bool",
        "list<item: double>",
    ]
    assert read.schema.field("t").type.tz == "Europe/Berlin"
    assert [column.null_count for column in read.columns] == [1] * 5


def test_a_stream_as_people_can_read_it(formatter):
    made = formatter("parquet")
    assert made.shown(made.rows([{"a": 1, "b": "x"}, {"a": 2, "b": None}], ORIGIN)).splitlines() == [
        "a: int64, b: string",
        "{'a': 1, 'b': 'x'}",
        "{'a': 2, 'b': None}",
    ]


# What cannot be.


def test_an_interpreter_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    imported = importlib.import_module

    def refuse(name):
        if name == "pyarrow":
            raise ImportError("No module named 'pyarrow'")
        return imported(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(ContractError, match=r"parquet, and .*cannot import pyarrow.*Install pyarrow"):
        RowFormatter(str(tmp_path), True, agree=Run().agree, row_format="parquet")
    RowFormatter(str(tmp_path), False, row_format="parquet")
    RowFormatter(str(tmp_path), True, agree=Run().agree, row_format="csv")


@pytest.mark.parametrize("row_format", TYPED)
def test_settings_of_text_are_refused_in_other_formats(tmp_path, formatter, row_format):
    (tmp_path / SETTINGS_FILE).write_text(
        '{"append_row": {"pandas.DataFrame.to_csv": {"sep": ",", "index": true}}}'
    )
    with pytest.raises(ContractError, match=f"sets sep, index of to_csv.*it is {row_format} here"):
        formatter(row_format)
    RowFormatter(str(tmp_path), False, row_format=row_format)
    (tmp_path / SETTINGS_FILE).write_text('{"append_row": {}, "other": 1}')
    formatter(row_format)


def test_a_header_of_text_holds_for_everything_that_is_written_as_a_frame(tmp_path):
    made = RowFormatter(str(tmp_path), True, agree=(run := Run()).agree)
    assert made.rows(pd.Series([1], name="n"), ORIGIN) == b"1\n"
    assert made.rows(pa.table({"n": [2]}), ORIGIN) == b"2\n"
    assert made.rows(np.array([3]), ORIGIN) == b"3\n"  # an element, not a row
    assert run.held == {0: "n\n"}
    with pytest.raises(ReturnValueError, match="the header '0'; the first one of this run had 'n'"):
        made.rows(np.array([[1]]), ORIGIN)
