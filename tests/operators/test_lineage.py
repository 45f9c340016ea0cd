# SPDX-License-Identifier: Apache-2.0
"""How datasets are named for OpenLineage; tests/on_airflow reads the events of real runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_parallelrun.operators.lineage import dataset_name, dataset_names

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/mnist", ("file", "/data/mnist")),
        ("/data/mnist/*.png", ("file", "/data/mnist")),
        ("/data/**/?.png", ("file", "/data")),
        ("/*", ("file", "/")),
        ("s3://bucket/images/2026", ("s3://bucket", "images/2026")),
        ("s3a://bucket/images/*.png", ("s3://bucket", "images")),
        ("s3://bucket", ("s3://bucket", "/")),
        ("gcs://bucket/a/b.csv", ("gs://bucket", "a/b.csv")),
        (
            "abfs://mnist@account.dfs.core.windows.net/digits/",
            ("abfss://mnist@account.dfs.core.windows.net", "digits"),
        ),
        ("abfs://datastore@mnist/digits/", ("abfss://mnist", "digits")),
        ("s3://datastore@bucket/images/*.png", ("s3://bucket", "images")),
        ("sftp://user:word@host/a/b", ("sftp://host", "a/b")),
        ("https://user:word@host.example/a/b.png?sig=secret", ("https://host.example", "a/b.png")),
    ],
)
def test_a_path_is_named_as_openlineage_names_it(path: str, name: tuple[str, str]) -> None:
    assert dataset_name(path) == name


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "scan[1].png"
    file.touch()
    assert dataset_name(str(file)) == ("file", str(file))


def test_very_many_paths_are_named_by_what_they_share() -> None:
    assert dataset_names(["/data/a", "/data/b", "/data/a"]) == [("file", "/data/a"), ("file", "/data/b")]
    one_folder = [f"/data/images/{number}.png" for number in range(1000)]
    assert dataset_names([*one_folder, "s3://bucket/a/b"]) == [("file", "/data/images"), ("s3://bucket", "a")]
    many_folders = [f"/data/{number}/0.png" for number in range(1000)]
    assert dataset_names(many_folders) == [("file", "/data")]
