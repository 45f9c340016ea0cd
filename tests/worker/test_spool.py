# SPDX-License-Identifier: Apache-2.0
"""Where the copies of items are, whatever their URLs look like."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from airflow_parallelrun.worker.errors import InputChangedError, LoadError
from airflow_parallelrun.worker.spool import Copies

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("abfs://store@container/a/b.png", "container/a/b.png"),
        ("abfs://container@account.dfs.core.windows.net/b.png", "account.dfs.core.windows.net/b.png"),
        ("ftp://me:secret@host/b.png", "host/b.png"),
        ("memory:///a/b.png", "a/b.png"),
        ("s3://bucket/../../../etc/passwd", "bucket/%2E%2E/%2E%2E/%2E%2E/etc/passwd"),
        ("s3://../x", "%2E%2E/x"),
        ("s3://bucket//./x", "bucket/%/%2E/x"),
        ("s3://bucket/folder/", "bucket/folder/%"),
        ("https://host/x.png?v=1&w=ü", "host/x.png?v=1&w=ü"),
    ],
)
def test_names_stay_in_the_spool(url: str, path: str) -> None:
    assert Copies("/spool", 7).path(2, url) == f"/spool/7/2/{path}"


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    copies = Copies(str(tmp_path), 0)
    long, other = f"s3://b/{'ä' * 300}.png", f"s3://b/{'ä' * 301}.png"
    path = copies.path(0, long)
    assert path.endswith("ä.png")
    assert path != copies.path(0, other)
    os.makedirs(os.path.dirname(path))
    with open(path, "x"):
        assert copies.find(0, long) == path


def test_why_there_is_none(tmp_path: Path) -> None:
    copies = Copies(str(tmp_path), 3)
    copies.fail(0, InputChangedError("it has changed"))
    copies.fail(1, LoadError("it is locked"))
    with pytest.raises(InputChangedError, match=r"^it has changed$"):
        copies.find(0, "s3://b/x")
    with pytest.raises(LoadError, match=r"^it is locked$"):
        copies.find(1, "s3://b/x")
    with pytest.raises(
        LoadError, match=r"s3://b/x: its copy .*/3/2/b/x is gone; a script must leave its input"
    ):
        copies.find(2, "s3://b/x")
