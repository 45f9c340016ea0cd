# SPDX-License-Identifier: Apache-2.0
"""The options that say what a job runs over: files, or tables and how they are read."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import ConfigurationError

from .parser import comma_separated, name_and_value

if TYPE_CHECKING:
    import argparse

    from airflow_parallelrun.datasets import DatasetInput

    from .parser import CommandParser

FILE, TABULAR = "file", "tabular"

# The format of a table by the end of its name, in front of that of a compressed file.
_FORMATS = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".txt": "delimited",
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".parquet": "parquet",
}
_COMPRESSED = (".gz", ".bz2", ".xz")
# What is hardly ever meant as a file for the script to open.
_HINTED = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_SIDE_INPUT = re.compile(r"\{side_input:(\w+)\}")
_SEPARATORS = {"tab": "\t", "\\t": "\t"}

# Options of tables alone: argparse's destination, and the field of TabularDataset.
_READER_OPTIONS = {
    "table_format": "format",
    "include_path": "include_path",
    "column_types": "column_types",
    "keep_columns": "columns",
    "drop_columns": "dropped_columns",
    "encoding": "encoding",
    "separator": "separator",
    "header": "header",
    "infer_column_types": "infer_column_types",
    "support_multi_line": "support_multi_line",
    "empty_as_string": "empty_as_string",
    "connection": "connection",
    "key": "key",
}


def add_input_options(parser: CommandParser) -> None:
    """Add the options of inputs, those of tables apart."""
    import argparse

    group = parser.add_argument_group("data")
    group.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="PATH",
        help="file, folder, quoted glob, URL or query; may be repeated: inputs are split each on its own, in "
        "order",
    )
    group.add_argument(
        "--input-type",
        choices=(FILE, TABULAR),
        default=FILE,
        help="what run() gets: paths of files, or rows of tables as a DataFrame (default: file)",
    )
    group.add_argument(
        "--partition-format",
        metavar="PATTERN",
        help="where keys stand in the paths, such as {user}/{day:yyyy-MM-dd}/*.csv",
    )
    group.add_argument(
        "--direct", action="store_true", help="hand the script the inputs' URLs, and fetch nothing"
    )
    group.add_argument(
        "--side-input",
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=PATH",
        help="file, folder, quoted glob or URL that every process has whole; its path on the node is in the "
        "environment variable NAME, and stands for {side_input:NAME} among the script's arguments; may be "
        "repeated",
    )
    table = parser.add_argument_group("tables, with --input-type tabular")
    table.add_argument(
        "--table-format",
        choices=("delimited", "json_lines", "parquet", "sql"),
        help="of the files (default: by their names' ends); sql, as with --connection: the input is a query",
    )
    table.add_argument(
        "--connection",
        metavar="NAME",
        help="of a query: the URL of its database is in PARALLELRUN_CONNECTION_<NAME>",
    )
    table.add_argument("--key", metavar="COLUMN", help="of a query: mini-batches are ranges of it")
    table.add_argument(
        "--separator", metavar="CHARACTER", help="between fields; tab or \\t for a tab (default: ,)"
    )
    table.add_argument(
        "--header",
        choices=("all_files_same_headers", "no_header", "from_first_file", "all_files_different_headers"),
        help="which files begin with the names of their columns (default: all_files_same_headers)",
    )
    table.add_argument("--encoding", metavar="NAME", help="of the text (default: utf-8)")
    table.add_argument(
        "--support-multi-line",
        action="store_true",
        default=None,
        help="fields in quotation marks may have line breaks; the files are read once more to find the rows",
    )
    table.add_argument(
        "--empty-as-string", action="store_true", default=None, help="an empty field of text is not missing"
    )
    table.add_argument(
        "--infer-column-types",
        action=argparse.BooleanOptionalAction,
        help="find types out from a sample (default), or take everything as text",
    )
    table.add_argument(
        "--column-type",
        "--column-types",
        dest="column_types",
        action="append",
        type=name_and_value,
        metavar="NAME=TYPE",
        help="string, int64, float64, bool, datetime or datetime:FORMAT; may be repeated",
    )
    table.add_argument(
        "--keep-columns", type=comma_separated, metavar="NAME,…", help="these columns only, in this order"
    )
    table.add_argument("--drop-columns", type=comma_separated, metavar="NAME,…", help="all columns but these")
    table.add_argument(
        "--include-path", action="store_true", default=None, help="a column Path with the file of each row"
    )


def inputs_of(parsed: argparse.Namespace) -> tuple[DatasetInput, ...]:
    """Every --input as an input of its own.

    :raises ConfigurationError: for what cannot be a path, and options of tables
    """
    given = {
        field: getattr(parsed, name)
        for name, field in _READER_OPTIONS.items()
        if getattr(parsed, name) is not None
    }
    make = _table if parsed.input_type == TABULAR else _files
    return tuple(make(path, parsed, given) for path in parsed.input)


def side_inputs_of(parsed: argparse.Namespace) -> tuple[DatasetInput, ...]:
    """Every --side-input.

    :raises ConfigurationError: for what cannot be a name or a path
    """
    from airflow_parallelrun.datasets import DatasetInput, FileDataset

    return tuple(DatasetInput(FileDataset((path,)), "direct", name) for name, path in parsed.side_input)


def arguments_of(script_arguments: list[str]) -> list[Any]:
    """The script's arguments, with what the engine takes in place of ``{side_input:NAME}``."""
    from airflow_parallelrun.engine.side_inputs import argument

    found = [(text, _SIDE_INPUT.fullmatch(text)) for text in script_arguments]
    return [argument(match[1]) if match else text for text, match in found]


def _files(path: str, parsed: argparse.Namespace, given: dict[str, Any]) -> DatasetInput:
    from airflow_parallelrun.datasets import DatasetInput, FileDataset

    if given:
        names = [f"--{name.replace('_', '-')}" for name, field in _READER_OPTIONS.items() if field in given]
        raise ConfigurationError(
            f"for tables only: {', '.join(names)}. Add --input-type {TABULAR}, or leave them out."
        )
    if path.endswith(_HINTED):
        print(
            f"hint: run() gets the path of {path}; for its rows as DataFrames add --input-type {TABULAR}",
            file=sys.stderr,
        )
    mode = "direct" if parsed.direct else "mount"
    return DatasetInput(FileDataset((path,), parsed.partition_format, _only_new(parsed)), mode)


def _only_new(parsed: argparse.Namespace) -> bool:
    """Tell whether only new files are wanted; `check`, which takes the first ones, does not ask."""
    return bool(getattr(parsed, "only_new", False))


def _table(path: str, parsed: argparse.Namespace, given: dict[str, Any]) -> DatasetInput:
    from airflow_parallelrun.datasets import DatasetInput, TabularDataset

    if _only_new(parsed):
        raise ConfigurationError("--only-new is for files: which rows of a table are new nobody knows.")
    options = dict(given)
    if "format" not in options:
        options["format"] = "sql" if "connection" in options else _format_of(path)
    if "column_types" in options:
        options["column_types"] = dict(options["column_types"])
    if "separator" in options:
        options["separator"] = _SEPARATORS.get(options["separator"], options["separator"])
    elif path.removesuffix(".gz").endswith(".tsv"):
        options["separator"] = "\t"
    dataset = TabularDataset.of(path, partition_format=parsed.partition_format, **options)
    return DatasetInput(dataset).check_mode()


def _format_of(path: str) -> str:
    """Return the format that a name has; in a folder that of the first file that has one."""
    known = _known_format(path)
    if known is None and os.path.isdir(path):
        names = (name for _, _, files in os.walk(path) for name in sorted(files))
        known = next(filter(None, map(_known_format, names)), None)
    if known is None:
        raise ConfigurationError(
            f"the name {path!r} does not say what kind of table it is. Give --table-format delimited, "
            "json_lines or parquet."
        )
    return known


def _known_format(path: str) -> str | None:
    stem, end = os.path.splitext(path.lower())
    if end in _COMPRESSED:
        end = os.path.splitext(stem)[1]
    return _FORMATS.get(end)
