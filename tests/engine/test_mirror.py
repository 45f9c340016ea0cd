# SPDX-License-Identifier: Apache-2.0
"""What a script writes for an output in a store: uploaded when it is new or has changed, or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_parallelrun.engine import mirror as module
from airflow_parallelrun.engine.mirror import Mirror
from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    import storage_servers


def test_what_has_changed_is_uploaded_again(
    tmp_path: Path, object_store: storage_servers.ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(str(tmp_path), f"{object_store.url}/out")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_text("first")
    (tmp_path / "b").write_text("b")
    mirror.upload()
    (tmp_path / "below" / "a").write_text("second")
    object_store.write("out/b", b"somebody else's since")
    mirror.upload()
    assert object_store.read("out/below/a") == b"second"
    assert object_store.read("out/b") == b"somebody else's since"
    monkeypatch.setattr(module, "_LARGE_BYTES", 3)
    (tmp_path / "large").write_text("in parts")
    mirror.upload()
    assert object_store.read("out/large") == b"in parts"


def test_what_grows_slowly_waits(tmp_path: Path, azure_store: storage_servers.ObjectStore) -> None:
    mirror = Mirror(str(tmp_path), f"{azure_store.url}/logs")
    log = tmp_path / "log.txt"
    log.write_text("x" * 100)
    mirror.upload_grown()
    log.write_text("x" * 110)
    mirror.upload_grown()
    assert len(azure_store.read("logs/log.txt")) == 100
    log.write_text("x" * 200)
    mirror.upload_grown()
    assert len(azure_store.read("logs/log.txt")) == 200
    log.write_text("x" * 201)
    mirror.upload()
    assert len(azure_store.read("logs/log.txt")) == 201


def test_a_container_that_is_not_there_is_an_error(
    tmp_path: Path, object_store: storage_servers.ObjectStore
) -> None:
    (tmp_path / "a").write_text("precious")
    mirror = Mirror(str(tmp_path), object_store.url.replace("test-", "none-") + "/out")
    with pytest.raises(StorageError, match="no such container or bucket"):
        mirror.upload()
