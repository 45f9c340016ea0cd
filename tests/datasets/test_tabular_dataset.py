# SPDX-License-Identifier: Apache-2.0
"""How a dataset of tables is spelled."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from airflow_parallelrun.datasets import Dataset, DatasetInput, DataType, TabularDataset
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NotSupportedError
from airflow_parallelrun.parameters import PipelineParameter

CSV = Dataset.Tabular.from_delimited_files


def test_what_says_nothing_more_is_short() -> None:
    made = CSV("a.csv")
    assert made == TabularDataset.from_delimited_files(["a.csv"], True, header=True, encoding="utf8")
    assert made.as_direct().to_dict() == {
        "type": "tabular",
        "paths": ["a.csv"],
        "mode": "direct",
        "name": None,
    }
    assert (
        made.as_named_input("rows") == DatasetInput(made, "direct", "rows") == DatasetInput(made, name="rows")
    )
    assert made.as_direct().is_tabular
    assert not Dataset.File.from_files("a.csv").as_mount().is_tabular


@pytest.mark.parametrize(
    "made",
    [
        CSV(
            ["a/*.csv", "b"],
            include_path=True,
            infer_column_types=False,
            set_column_types={"a": DataType.to_long(), "b": DataType.to_datetime("%d.%m.%Y")},
            separator=";",
            header="from_first_file",
            partition_format="{user}/*.csv",
            support_multi_line=True,
            empty_as_string=True,
            encoding="windows1252",
        ).keep_columns(["a", "b"]),
        Dataset.Tabular.from_json_lines_files("a.jsonl", encoding="latin1").drop_columns("x"),
        Dataset.Tabular.from_parquet_files("a", set_column_types={"x": "string"}, include_path=True),
    ],
)
def test_an_input_survives_json_and_pickle(made: TabularDataset) -> None:
    given = made.as_named_input("x")
    assert DatasetInput.from_dict(json.loads(json.dumps(given.to_dict()))) == given
    assert pickle.loads(pickle.dumps(given)) == given
    parameter = PipelineParameter("p", made).as_named_input("x")
    assert parameter.is_tabular
    again = DatasetInput.from_dict({**parameter.to_dict(), "paths": "other"})
    assert again == given.resolve("/").__class__(type(made).of("other", **_options(made)), "direct", "x")


def _options(made: TabularDataset) -> dict[str, Any]:
    document = made.as_direct().to_dict()
    return {name: value for name, value in document.items() if name not in ("type", "paths", "mode", "name")}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (True, "all_files_same_headers"),
        (False, "no_header"),
        ("from_first_file", "from_first_file"),
        ("all_files_different_headers", "all_files_different_headers"),
    ],
)
def test_headers(given: Any, kept: str) -> None:
    assert CSV("a", header=given).header == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("utf8", "utf-8"),
        ("utf8bom", "utf-8-sig"),
        ("iso88591", "iso8859-1"),
        ("windows1252", "cp1252"),
        ("utf16", "utf-16"),
    ],
)
def test_encodings(given: str, kept: str) -> None:
    assert CSV("a", encoding=given).encoding == kept


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"separator": ""}, "separator must be one ASCII character"),
        ({"separator": "||"}, "separator must be one ASCII character"),
        ({"separator": "\n"}, "separator must be one ASCII character"),
        ({"header": "promote"}, "header must be True, False, or one of all_files_same_headers"),
        ({"encoding": "utf9"}, "encoding must be a text encoding that Python knows, got 'utf9'"),
        ({"encoding": "base64"}, "encoding must be a text encoding that Python knows"),
        ({"set_column_types": {"a": "int"}}, "the type of the column 'a' must be one of string, int64"),
        ({"include_path": "yes"}, "include_path must be True or False"),
        ({"partition_format": "x"}, "partition_format must be a pattern"),
        ({"path": []}, "path must be"),
    ],
)
def test_what_can_never_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        CSV(**{"path": "a", **values})


def test_columns() -> None:
    assert CSV("a").keep_columns("x").columns == ("x",)
    assert CSV("a").drop_columns("x").drop_columns(["y"]).dropped_columns == ("x", "y")
    assert CSV("a").drop_columns("x").keep_columns(["x"]).dropped_columns == ()
    with pytest.raises(ConfigurationError, match="drop_columns after keep_columns"):
        CSV("a").keep_columns("x").drop_columns("y")
    with pytest.raises(InvalidValueError, match="names of columns, each once"):
        CSV("a").keep_columns(["x", "x"])


def test_tables_are_read_where_they_are() -> None:
    for mode in ("as_mount", "as_download"):
        with pytest.raises(NotSupportedError, match=f"{mode}\\(\\) of a table"):
            getattr(CSV("a").as_named_input("x"), mode)()
    assert CSV("s3://bucket/a.csv").as_direct().is_staged
