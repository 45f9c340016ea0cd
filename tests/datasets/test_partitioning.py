# SPDX-License-Identifier: Apache-2.0
"""Copying a table into folders by keys, and finding the keys again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from memory_shop import opened

from airflow_parallelrun.datasets import FileDataset, TabularDataset, list_files, partitioning
from airflow_parallelrun.exceptions import (
    InputUnreadableError,
    InvalidValueError,
    OutputExistsError,
    UnknownNameError,
)
from airflow_parallelrun.worker.partitions import PartitionFormat

if TYPE_CHECKING:
    from pathlib import Path

TABLE = pd.DataFrame(
    {
        "n": range(12),
        "store": [2, 5] * 6,
        "brand": ["a/b", "c d", "x=y", "ü%", None, ""] * 2,
        "price": [0.5 * n for n in range(12)],
    }
)


@pytest.fixture
def table(tmp_path: Path) -> TabularDataset:
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    return TabularDataset.from_delimited_files(tmp_path / "t.csv")


def test_a_folder_for_each_value_and_all_rows_in_them(table: TabularDataset, tmp_path: Path) -> None:
    made = table.partition_by(["store", "brand"], tmp_path / "out")
    assert isinstance(made, TabularDataset)
    assert made.partition_keys == ("store", "brand")
    assert made.column_types == {"store": "int64", "brand": "string"}
    folders = sorted(
        str(path.relative_to(tmp_path / "out").parent) for path in (tmp_path / "out").rglob("*.parquet")
    )
    assert "store=2/brand=a%2Fb" in folders
    assert "store=5/brand=ü%25" not in folders  # letters beyond ASCII are encoded, too
    assert "store=2/brand=__HIVE_DEFAULT_PARTITION__" in folders
    files = sorted((tmp_path / "out").rglob("*.parquet"))
    back = pd.concat(pd.read_parquet(file, partitioning=None) for file in files)
    assert sorted(back["n"]) == list(range(12))
    assert back["price"].sum() == TABLE["price"].sum()
    found = PartitionFormat(partitioning.hive_format(["store", "brand"]), made.column_types)
    brands = {found.only(["brand"], str(file))["brand"] for file in files}
    assert brands == {"a/b", "c d", "x=y", "ü%", None}


def test_others_read_it(table: TabularDataset, tmp_path: Path) -> None:
    table.take(4).partition_by(["store", "brand"], tmp_path / "out")
    back = pd.read_parquet(tmp_path / "out").sort_values("n", ignore_index=True)
    assert back["store"].tolist() == [2, 5, 2, 5]
    assert back["brand"].tolist() == ["a/b", "c d", "x=y", "ü%"]


def test_one_who_reads_it_finds_the_keys(table: TabularDataset, tmp_path: Path) -> None:
    table.partition_by(["store", "brand"], str(tmp_path / "out"))
    files = list(list_files([str(tmp_path / "out")]))
    assert partitioning.found_keys(files) == {"store": "int64", "brand": "string"}
    assert partitioning.hive_format(["store", "brand"]) == "store={store}/brand={brand}/*"


def test_what_is_no_layout_by_keys(tmp_path: Path) -> None:
    for name in ("a=1/x", "b=1/x"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert partitioning.found_keys(list(list_files([str(tmp_path)]))) == {}
    assert partitioning.found_keys(list(list_files([str(tmp_path / "a=1")]))) == {"a": "int64"}


def test_as_files(table: TabularDataset, tmp_path: Path) -> None:
    made = table.partition_by(["store"], tmp_path / "out", partition_as_file_dataset=True)
    assert made == FileDataset((str(tmp_path / "out"),), "store={store}/*")


def test_more_keys_than_files_may_be_open(
    table: TabularDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitioning, "_FILES_OPEN", 1)
    monkeypatch.setattr(partitioning, "_READ", partitioning.TableSize(20, "bytes"))
    table.partition_by(["store"], tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.parquet"))) > 2
    assert sorted(pd.read_parquet(tmp_path / "out")["n"]) == list(range(12))


def test_nothing_is_there_when_it_fails(table: TabularDataset, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown column 'stor'; did you mean 'store'"):
        table.partition_by(["stor"], tmp_path / "out")
    with pytest.raises(InvalidValueError, match="some of the columns, not all of them"):
        table.partition_by(list(TABLE.columns), tmp_path / "out")
    (tmp_path / "t.csv").write_text("n,store\n1,2\nx,3\n")
    wrong = TabularDataset.from_delimited_files(tmp_path / "t.csv", set_column_types={"n": "int64"})
    with pytest.raises(InputUnreadableError, match="line 3, column 'n': 'x' is not int64"):
        wrong.partition_by(["store"], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    with pytest.raises(OutputExistsError):
        table.partition_by(["store"], tmp_path / "out")


def test_an_empty_folder_will_do(table: TabularDataset, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    made: Any = table.partition_by(["store"], tmp_path / "out")
    assert made.paths == (str(tmp_path / "out"),)


def test_a_table_in_a_store(tmp_path: Path) -> None:
    with opened() as shop:
        urls = [shop.add(f"{number}.csv", TABLE.to_csv(index=False).encode()) for number in range(2)]
        made: Any = TabularDataset.from_delimited_files(urls).partition_by(["store"], tmp_path / "out")
        assert [name for name, _, _ in shop.requests][-2:] == ["0.csv", "1.csv"]
    read = pd.read_parquet(made.paths[0])
    assert len(read) == 2 * len(TABLE)
    assert read["price"].sum() == 2 * TABLE["price"].sum()
