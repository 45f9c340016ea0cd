# SPDX-License-Identifier: Apache-2.0
"""Tables and partition keys by the command, as a person types it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_parallelrun.cli.inputs import inputs_of
from airflow_parallelrun.cli.options import parse_job
from airflow_parallelrun.datasets import Dataset, DatasetInput
from airflow_parallelrun.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from workplace import Workplace

SUMS = "def run(frame): return frame.assign(sum=frame.sum(axis=1, numeric_only=True))\n"


def inputs(*options: str) -> tuple[DatasetInput, ...]:
    return inputs_of(parse_job("run", "", ["score.py", "--output", "out", *options]))


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (["--input", "a.csv"], Dataset.Tabular.from_delimited_files("a.csv")),
        (["--input", "a.csv.gz"], Dataset.Tabular.from_delimited_files("a.csv.gz")),
        (["--input", "a/*.tsv"], Dataset.Tabular.from_delimited_files("a/*.tsv", separator="\t")),
        (["--input", "a.jsonl"], Dataset.Tabular.from_json_lines_files("a.jsonl")),
        (["--input", "a.PARQUET"], Dataset.Tabular.from_parquet_files("a.PARQUET")),
        (["--input", "a", "--table-format", "parquet"], Dataset.Tabular.from_parquet_files("a")),
        (
            [
                "--input",
                "{d}.csv",
                "--partition-format",
                "{user}/*.csv",
                "--column-type",
                "n=int64",
                "--header",
                "no_header",
                "--separator",
                "tab",
                "--encoding",
                "latin-1",
                "--keep-columns",
                "n, m",
                "--include-path",
                "--support-multi-line",
                "--empty-as-string",
                "--no-infer-column-types",
            ],
            Dataset.Tabular.from_delimited_files(
                "{d}.csv",
                include_path=True,
                infer_column_types=False,
                set_column_types={"n": "int64"},
                separator="\t",
                header=False,
                partition_format="{user}/*.csv",
                support_multi_line=True,
                empty_as_string=True,
                encoding="latin-1",
            ).keep_columns(["n", "m"]),
        ),
    ],
)
def test_what_the_options_say(options: list[str], made: Any) -> None:
    assert inputs(*options, "--input-type", "tabular") == (DatasetInput(made),)


def test_a_folder_is_what_its_first_file_is(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "readme").touch()
    (tmp_path / "sub" / "x.parquet").touch()
    (made,) = inputs("--input", str(tmp_path), "--input-type", "tabular")
    assert made.dataset == Dataset.Tabular.from_parquet_files(str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"'a' does not say what kind of table.*--table-format"):
        inputs("--input", "a", "--input-type", "tabular")


def test_what_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"for tables only: --keep-columns, --separator\. Add"):
        inputs("--input", "a.csv", "--separator", ";", "--keep-columns", "a")


def test_urls() -> None:
    (made,) = inputs("--input", "s3://b/a.csv", "--input-type", "tabular")
    assert made.dataset == Dataset.Tabular.from_delimited_files("s3://b/a.csv")
    (made,) = inputs("--input", "s3://b/a")
    assert (made.mode, made.is_staged) == ("mount", True)
    (made,) = inputs("--input", "s3://b/a", "--direct")
    assert (made.mode, made.is_staged) == ("direct", False)


def test_a_table_from_the_shell(work: Workplace) -> None:
    (work.folder / "t.csv").write_text("a,b\n" + "".join(f"{n},{n}\n" for n in range(100)))
    script = work.script(SUMS)
    command = ("run", script, "--input", "t.csv", "--input-type", "tabular", "--mini-batch-size", "10rows")
    ended = work.command(*command, "--output", "output")
    assert ended.status == 0, ended.err
    assert "10 mini-batches of 100 items on 1 node" in ended.err
    assert work.rows() == sorted(f"{n} {n} {2 * n}" for n in range(100))

    checked = work.command("check", *command[1:])
    assert checked.status == 0, checked.err
    assert "run() returned a DataFrame of 10 elements for 10 items" in checked.out
    assert "  0 0 0\n  1 1 2\n" in checked.out


def test_a_table_among_files_gets_a_hint(work: Workplace) -> None:
    (work.folder / "t.csv").write_text("a\n1\n")
    ended = work.command("check", work.script("def run(batch): return batch\n"), "--input", "t.csv")
    assert ended.status == 0
    assert (
        "hint: run() gets the path of t.csv; for its rows as DataFrames add --input-type tabular" in ended.err
    )


def test_partition_keys_from_the_shell(work: Workplace) -> None:
    for name in ("ada/1.txt", "bob/1.txt", "ada/2.txt"):
        path = work.folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    script = work.script(
        "def run(batch, context): return [context.partition_key_value['user']] * len(batch)\n"
    )
    ended = work.command(
        *("run", script, "--input", "in", "--output", "output"),
        *("--partition-format", "{user}/*.txt", "--partition-keys", "user"),
    )
    assert ended.status == 0, ended.err
    assert "2 mini-batches of 3 items" in ended.err
    assert work.rows() == ["ada", "ada", "bob"]


def test_a_store_from_the_shell(work: Workplace, azure_store: Any) -> None:
    for number in range(3):
        azure_store.write(f"in/{number}.txt", str(number).encode())
    table = azure_store.write("t.csv", b"a,b\n" + b"".join(b"%d,%d\n" % (n, n) for n in range(100)))
    script = work.script(
        "from pathlib import Path\ndef run(files): return [Path(each).read_text() for each in files]\n"
    )
    ended = work.command("check", script, "--input", f"{azure_store.url}/in", "--mini-batch-size", "2")
    assert ended.status == 0
    assert "run() returned a list of 2 elements for 2 items" in ended.out
    assert "  0\n  1\n" in ended.out
    options = ("--input-type", "tabular", "--output", "out", "--mini-batch-size", "30rows")
    ended = work.command("run", work.script(SUMS), "--input", table, *options, "--spool-bytes", "1MB")
    assert ended.status == 0
    rows = (work.folder / "out" / "parallel_run_step.txt").read_text().splitlines()
    assert rows == [f"{n} {n} {2 * n}" for n in range(100)]
    assert azure_store.secret not in ended.out + ended.err
