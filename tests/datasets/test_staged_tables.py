# SPDX-License-Identifier: Apache-2.0
"""Tables in stores: their parts give the rows that those of local files give, and little more travels."""

from __future__ import annotations

import gzip
import io
import random
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from datasets.test_table_fuzz import broken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_shop import Shop, opened

from airflow_parallelrun.config import TableSize
from airflow_parallelrun.datasets import TabularDataset, list_files
from airflow_parallelrun.datasets.copies import Copier
from airflow_parallelrun.datasets.table import Table
from airflow_parallelrun.exceptions import DatasetError, InputUnreadableError
from airflow_parallelrun.worker.loading import Loader
from airflow_parallelrun.worker.spool import Copies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_parallelrun.worker.loading import Loaded

ROWS = 3000
FRAME = pd.DataFrame(
    {"n": range(ROWS), "t": [f"row {n}" for n in range(ROWS)], "x": [n / 3 for n in range(ROWS)]}
)
CSV = FRAME.to_csv(index=False).encode()
Make = "Callable[[Any], TabularDataset]"
csv = TabularDataset.from_delimited_files


@pytest.fixture
def shop() -> Iterator[Shop]:
    with opened() as made:
        yield made


@dataclass
class Parts:
    """Every part of a table, loaded; where it lies in a store from a copy of each."""

    table: Table
    loaded: list[Loaded] = field(default_factory=list)
    #: Bytes that split asked for, and those that the parts took.
    looked_at: int = 0
    copied: int = 0

    @property
    def rows(self) -> pd.DataFrame:
        frames = [each.value for each in self.loaded if each.value is not None]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    @property
    def told(self) -> list[str]:
        return [str(each.wrong) for each in self.loaded]


def load(
    dataset: TabularDataset, size: TableSize, shop: Shop | None = None, folder: Path | None = None
) -> Parts:
    parts = Parts(Table(dataset, list(list_files(dataset.paths)), size))
    source = {**parts.table.source, **({"spool": str(folder)} if shop else {})}
    cut = list(parts.table.parts())
    loader = Loader([source], [])
    parts.looked_at = shop.bytes_read if shop else 0
    copier = Copier(source)
    for ordinal, part in enumerate(cut):
        if folder is not None:
            copier.make_all([part.item], Copies(str(folder), ordinal))
        parts.loaded.append(loader.load([0, part.item], ordinal=ordinal))
    parts.copied = shop.bytes_read - parts.looked_at if shop else 0
    return parts


def both(shop: Shop, folder: Path, name: str, data: bytes, make: Any, size: TableSize) -> tuple[Parts, Parts]:
    """Load a table from a local file, and from a store."""
    local = folder / name
    local.write_bytes(data)
    here = load(make(str(local)), size)
    there = load(make(shop.add(name, data)), size, shop, folder / "spool")
    shutil.rmtree(folder / "spool", ignore_errors=True)
    return here, there


def assert_same(here: Parts, there: Parts) -> None:
    assert [each.items for each in there.loaded] == [each.items for each in here.loaded]
    pd.testing.assert_frame_equal(there.rows, here.rows)


def in_bytes(count: int) -> TableSize:
    return TableSize(count, "bytes")


def test_of_delimited_text_the_part_the_header_and_the_rest_of_a_line_travel(
    shop: Shop, tmp_path: Path
) -> None:
    data = CSV * 20  # headers in it are rows that do not fit, but for columns of text
    here, there = both(
        shop, tmp_path, "t.csv", data, lambda path: csv(path, infer_column_types=False), in_bytes(100_000)
    )
    assert_same(here, there)
    assert len(here.loaded) == -(-len(data) // 100_000)
    assert there.looked_at <= (1 << 20) + (1 << 17)
    assert there.copied <= len(data) + (len(here.loaded) + 1) * 4097
    assert there.rows["n"].str.isdecimal().sum() == 20 * ROWS


def test_text_that_split_scans(shop: Shop, tmp_path: Path) -> None:
    frame = FRAME.assign(t=[f'line "1"\r\nof {n}, and {n}' for n in range(ROWS)])
    here, there = both(
        shop,
        tmp_path,
        "t.csv",
        frame.to_csv(index=False).encode(),
        lambda path: csv(path, support_multi_line=True),
        TableSize(700, "rows"),
    )
    assert_same(here, there)
    pd.testing.assert_frame_equal(there.rows, frame, check_dtype=False)


@pytest.mark.parametrize("name", ["t.csv.gz", "utf16.csv"])
def test_streams_travel_whole_each_time(shop: Shop, tmp_path: Path, name: str) -> None:
    data = gzip.compress(CSV) if name.endswith("gz") else CSV.decode().encode("utf-16")
    encoding = "utf-8" if name.endswith("gz") else "utf-16"
    here, there = both(
        shop, tmp_path, name, data, lambda path: csv(path, encoding=encoding), in_bytes(40_000)
    )
    assert_same(here, there)
    assert there.copied == len(data) * len(there.loaded)


def test_long_lines(shop: Shop, tmp_path: Path) -> None:
    data = b"".join(b'{"a": "%s"}\n' % (b"x" * length) for length in (10, 100_000, 10, 300_000, 10))
    here, there = both(
        shop, tmp_path, "t.jsonl", data, TabularDataset.from_json_lines_files, in_bytes(20_000)
    )
    assert_same(here, there)
    assert len(there.rows) == 5


def test_of_parquet_the_columns_of_a_row_group_travel(shop: Shop, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    FRAME.assign(other=[random.Random(n).randbytes(900) for n in range(ROWS)]).to_parquet(
        buffer, row_group_size=ROWS // 3
    )
    data = buffer.getvalue()
    make = TabularDataset.from_parquet_files
    here, there = both(
        shop,
        tmp_path,
        "t.parquet",
        data,
        lambda path: make(path).keep_columns(["x", "n"]),
        TableSize(ROWS // 3, "rows"),
    )
    assert_same(here, there)
    assert list(there.rows) == ["x", "n"]
    assert len(data) > 900 * ROWS
    # The footers come with the last 64 KiB, for split and for the copies; the columns are 24 bytes a row.
    assert there.copied + there.looked_at < 2 * (1 << 16) + 30 * ROWS
    filtered = lambda path: make(path).filter((make("a")["n"] >= 1500) & (make("a")["n"] < 1700))  # noqa: E731
    here, there = both(shop, tmp_path, "f.parquet", data, filtered, TableSize(100, "rows"))
    assert_same(here, there)
    assert there.rows["n"].tolist() == list(range(1500, 1700))


def test_rows_that_do_not_fit_are_named_by_where_they_are(shop: Shop, tmp_path: Path) -> None:
    lines = CSV.splitlines(keepends=True)
    lines[2500] = b"no number,x,1\n"
    data, types = b"".join(lines), {"n": "int64"}
    _, there = both(
        shop, tmp_path, "t.csv", data, lambda path: csv(path, set_column_types=types), in_bytes(20_000)
    )
    (wrong,) = [each.wrong for each in there.loaded if each.wrong is not None]
    at = len(b"".join(lines[:2500]))
    assert str(wrong) == f"memory://shop@/data/t.csv, byte {at}, column 'n': 'no number' is not int64"
    packed = gzip.compress(data)
    _, there = both(
        shop, tmp_path, "t.csv.gz", packed, lambda path: csv(path, set_column_types=types), in_bytes(20_000)
    )
    (wrong,) = [each.wrong for each in there.loaded if each.wrong is not None]
    assert str(wrong).startswith("memory://shop@/data/t.csv.gz, line 2501, ")


def test_headers(shop: Shop, tmp_path: Path) -> None:
    shop.add("h/1.csv", b"a,b\n1,2\n")
    shop.add("h/2.csv", b"a,c\n3,4\n")
    size = in_bytes(100)
    url = "memory://shop@/data/h"
    there = load(csv(url), size, shop, tmp_path / "1")
    assert there.told[0] == "None"
    assert there.told[1].startswith(
        f"{url}/2.csv has the header 'a', 'c'; that of the first file is 'a', 'b'."
    )
    there = load(csv(url, header="all_files_different_headers"), size, shop, tmp_path / "2")
    assert there.rows.to_dict("list")["a"] == [1, 3]
    there = load(csv(url, header="from_first_file", include_path=True), size, shop, tmp_path / "3")
    assert there.rows["Path"].tolist() == [f"{url}/1.csv", f"{url}/2.csv", f"{url}/2.csv"]


def test_a_table_that_changes(shop: Shop, tmp_path: Path) -> None:
    url = shop.add("t.csv", CSV)
    dataset, size = csv(url), in_bytes(20_000)
    files = list(list_files(dataset.paths))
    shop.add("t.csv", CSV[:-1])
    with pytest.raises(InputUnreadableError, match="has changed since it was listed"):
        Table(dataset, files, size)
    table = Table(dataset, list(list_files(dataset.paths)), size)
    parts = list(table.parts())
    shop.add("t.csv", CSV)
    copies = Copies(str(tmp_path), 0)
    Copier(table.source).make_all([parts[0].item], copies)
    loaded = Loader([{**table.source, "spool": str(tmp_path)}], []).load([0, parts[0].item])
    assert str(loaded.wrong) == f"{url} has changed since it was listed"
    assert (loaded.value, loaded.items) == (None, 0)


def test_what_is_no_parquet_file(shop: Shop) -> None:
    for name, data in (("short", b"PAR1"), ("other", bytes(100)), ("long", b"\xff\xff\xff\x7fPAR1" * 4)):
        url = shop.add(f"{name}.parquet", data)
        dataset = TabularDataset.from_parquet_files(url)
        with pytest.raises(InputUnreadableError, match=f"{name}.parquet is not a Parquet file"):
            Table(dataset, list(list_files(dataset.paths)), in_bytes(100))


FUZZ = settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))


@FUZZ
@given(
    st.integers(),
    st.integers(0, 6),
    st.sampled_from([50, 300, 5000]),
    st.sampled_from(["csv", "multi", "jsonl"]),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
def test_any_text_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, seed: int, wounds: int, size: int, kind: str, ending: bytes
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    some = FRAME[:40]
    if kind == "jsonl":
        data, make = some.to_json(orient="records", lines=True).encode(), TabularDataset.from_json_lines_files
    else:
        data = some.to_csv(index=False, quoting=int(kind == "multi")).encode()
        make = lambda path: csv(path, support_multi_line=kind == "multi", set_column_types={"n": "int64"})  # noqa: E731
    header, _, rest = data.partition(b"\n")
    data = (header + b"\n" + broken(rest, seed, wounds)).replace(b"\n", ending)
    if random.Random(seed).random() < 0.3:
        data = b"\xef\xbb\xbf" + data
    with opened() as shop:
        try:
            here, there = both(shop, folder, "t", data, make, in_bytes(size))
        except DatasetError:
            with pytest.raises(DatasetError):
                load(make(shop.add("t", data)), in_bytes(size))
            return
    assert_same(here, there)
    assert [told == "None" for told in there.told] == [told == "None" for told in here.told]
