# SPDX-License-Identifier: Apache-2.0
"""Files from real stores to this machine."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from airflow_parallelrun.filesystems import locate
from airflow_parallelrun.store_files import BLOCK_BYTES, Transfer, download, read_range

if TYPE_CHECKING:
    from pathlib import Path

    from storage_servers import ObjectStore


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 1])
def test_files_of_any_size_are_fetched(size: int, input_store: ObjectStore, tmp_path: Path) -> None:
    data = random.Random(size).randbytes(size)
    place = locate(input_store.write("folder/a", data))
    target = tmp_path / "here" / "a"
    download([Transfer(place.fs, place.path, str(target), size)])
    assert target.read_bytes() == data


@pytest.mark.parametrize("size", [1, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_a_file_that_has_become_shorter_is_an_error(
    size: int, input_store: ObjectStore, tmp_path: Path
) -> None:
    place = locate(input_store.write("folder/a", bytes(size)))
    with pytest.raises(OSError):  # some stores say so themselves
        download([Transfer(place.fs, place.path, str(tmp_path / "a"), size + 1)])


def test_a_part_of_a_file_is_all_that_is_read(input_store: ObjectStore) -> None:
    place = locate(input_store.write("folder/a", b"0123456789"))
    assert read_range(place.fs, place.path, 2, 5) == b"234"
    assert read_range(place.fs, place.path, 8, 20) == b"89"
