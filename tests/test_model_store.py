# SPDX-License-Identifier: Apache-2.0
"""A registry in an object store, and the models that a machine has fetched from it."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_parallelrun import store_files
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InvalidValueError,
    ModelNotFoundError,
    NotSupportedError,
    StorageError,
)
from airflow_parallelrun.models import Model, ModelRegistry, cache, models_root
from airflow_parallelrun.models.cache import ModelCache, model_cache
from airflow_parallelrun.models.settings import CACHE_BYTES, CacheSettings, cache_settings
from airflow_parallelrun.store_files import TransferStoppedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage_servers import ObjectStore

START = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PARALLELRUN_MODELS_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    model_cache().close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mnist"
    (made / "variables").mkdir(parents=True)
    (made / "graph.meta").write_bytes(b"graph")
    (made / "variables" / "data").write_bytes(bytes(range(256)) * 8)
    (made / "empty").write_bytes(b"")
    return made


def forget() -> None:
    """Do as another process would that comes later."""
    model_cache().close()


def test_models_of_a_store_are_fetched(
    object_store: ObjectStore, folder: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_files, "BLOCK_BYTES", 1000)
    root = f"{object_store.url}/models"
    registry = ModelRegistry(root)
    assert registry.list() == []
    with pytest.raises(ModelNotFoundError, match="the model 'mnist' is not registered"):
        registry.path("mnist")

    first = registry.register(folder, "mnist", tags={"stage": "test"}, description="digits")
    assert (first.version, first.path) == (1, f"{root}/mnist/1/data/mnist")
    (folder / "graph.meta").write_bytes(b"graph 2")
    second = registry.register(folder, "mnist")
    third = registry.register(folder / "graph.meta", "file")
    assert registry.list() == [third, first, second]

    path = Path(registry.path("mnist"))
    assert path.parent == Path(registry.folder("mnist", 2))
    assert path.is_relative_to(cache_folder)
    assert {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()} == {
        "graph.meta": b"graph 2",
        "variables/data": bytes(range(256)) * 8,
        "empty": b"",
    }
    assert registry.find("mnist", 1)[1] == 1
    assert (Path(registry.path("mnist", 1)) / "graph.meta").read_bytes() == b"graph"
    with pytest.raises(ModelNotFoundError, match="'mnist:3'"):
        registry.path("mnist", 3)

    monkeypatch.setenv("PARALLELRUN_MODELS_ROOT", f" {root}/ ")
    assert models_root() == root
    assert Path(Model.get_model_path("file")).read_bytes() == b"graph 2"
    assert Model.register(folder / "empty", "empty").path == f"{root}/empty/1/data/empty"


def test_what_is_here_is_not_fetched_again(s3_store: ObjectStore, folder: Path) -> None:
    registry = ModelRegistry(f"{s3_store.url}/models")
    registry.register(folder, "mnist")
    path = registry.path("mnist")
    s3_store.fs.rm(f"{s3_store.container}/models/mnist/1/data", recursive=True)
    forget()
    assert registry.path("mnist") == path
    (Path(path) / "graph.meta").chmod(0o644)
    (Path(path) / "graph.meta").write_bytes(b"grapX")
    with pytest.raises(StorageError, match=r"models/mnist: (FileNotFound|NoSuchKey)"):
        registry.path("mnist")


def test_a_version_that_was_changed_here_is_fetched_again(s3_store: ObjectStore, folder: Path) -> None:
    registry = ModelRegistry(f"{s3_store.url}/models")
    registry.register(folder, "mnist")
    changed = Path(registry.path("mnist"), "graph.meta")
    changed.chmod(0o644)
    changed.write_bytes(b"other")
    assert Path(registry.path("mnist"), "graph.meta").read_bytes() == b"graph"


def test_what_is_not_what_was_registered_is_refused(object_store: ObjectStore, folder: Path) -> None:
    registry = ModelRegistry(f"{object_store.url}/models")
    registry.register(folder, "mnist")
    object_store.write("models/mnist/1/data/mnist/graph.meta", b"grapX")
    with pytest.raises(StorageError, match=r"mnist/graph\.meta: is not what was registered: its hash"):
        registry.path("mnist")
    object_store.write("models/mnist/1/data/mnist/graph.meta", b"longer than it was")
    with pytest.raises(StorageError, match=r"graph\.meta' gave 18 bytes instead of 5"):
        registry.path("mnist")
    object_store.write("models/mnist/1/data/mnist/graph.meta", b"graph")
    assert Path(registry.path("mnist"), "graph.meta").read_bytes() == b"graph"


def _register(root: str, source: str, barrier: Any, results: Any) -> None:
    registry = ModelRegistry(root)
    barrier.wait(60)
    results.put([registry.register(source, "mnist").version for _ in range(3)])


def test_registrations_at_once_get_versions_of_their_own(object_store: ObjectStore, folder: Path) -> None:
    root = f"{object_store.url}/models"
    barrier, results = threading.Barrier(4), []
    workers = [
        threading.Thread(target=_register, args=(root, str(folder), barrier, _Results(results)))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(version for versions in results for version in versions) == list(range(1, 13))
    assert [model.version for model in ModelRegistry(root).list()] == list(range(1, 13))


class _Results:
    def __init__(self, results: list[Any]) -> None:
        self.put = results.append


def test_a_registration_that_fails_is_no_version(
    s3_store: ObjectStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(f"{s3_store.url}/models")
    registry.register(folder, "mnist")
    put_file = registry._models._fs.put_file  # type: ignore[union-attr]

    def fail(here: str, there: str) -> None:
        if here.endswith("data"):
            raise OSError("the network is gone")
        put_file(here, there)

    with monkeypatch.context() as patch:
        patch.setattr(registry._models._fs, "put_file", fail)  # type: ignore[union-attr]
        with pytest.raises(StorageError, match="mnist/2: OSError: the network is gone"):
            registry.register(folder, "mnist")
    assert registry.version("mnist") == 1
    assert [path for path in s3_store.paths("models/mnist/2") if "data" in path] == []
    assert registry.register(folder, "mnist").version == 3


def test_what_cannot_be_registered(s3_store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "nothing" / "in it").mkdir(parents=True)
    with pytest.raises(InvalidValueError, match="a file, or a folder with files in it"):
        ModelRegistry(f"{s3_store.url}/models").register(tmp_path / "nothing", "mnist")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(NotSupportedError, match="where two could get the same version"):
        ModelRegistry("memory:///models").register(tmp_path / "file", "mnist")


def _use(root: str, barrier: Any, results: Any) -> None:
    registry = ModelRegistry(root)
    fetched: list[str] = []
    cache.download = _counting(cache.download, fetched)
    barrier.wait(60)
    results.put((registry.path("mnist"), len(fetched)))


def _counting(download: Any, fetched: list[str]) -> Any:
    def count(*arguments: Any) -> None:
        fetched.append("once")
        download(*arguments)

    return count


def test_processes_that_need_a_model_at_once_fetch_it_once(s3_store: ObjectStore, folder: Path) -> None:
    root = f"{s3_store.url}/models"
    ModelRegistry(root).register(folder, "mnist")
    barrier, results = START.Barrier(2), START.Queue()
    processes = [START.Process(target=_use, args=(root, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert len({path for path, _ in found}) == 1
    assert sum(times for _, times in found) == 1


def test_the_longest_unused_makes_room(
    s3_store: ObjectStore, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLELRUN_MODELS_CACHE_BYTES", "2500")
    registry = ModelRegistry(f"{s3_store.url}/models")
    for name in ("one", "two", "three", "large"):
        (tmp_path / name).write_bytes(bytes(3000 if name == "large" else 1000))
        registry.register(tmp_path / name, name)
    for age, name in ((20, "one"), (10, "two")):
        forget()
        registry.path(name)
        lock = next(path for path in cache_folder.glob(f"{name}-1-*.lock"))
        os.utime(lock, (time.time() - age, time.time() - age))
    forget()
    registry.path("three")
    assert sorted(path.name.split("-")[0] for path in cache_folder.iterdir() if path.is_dir()) == [
        "three",
        "two",
    ]
    registry.path("two")
    with pytest.raises(StorageError, match=r"no room for the model one:1: running nodes use 2000 of"):
        registry.path("one")
    with pytest.raises(ConfigurationError, match=r"large:1 has 3000 bytes, .* models_cache_bytes"):
        registry.path("large")


def test_what_a_killed_process_had_begun_makes_room(
    s3_store: ObjectStore, folder: Path, cache_folder: Path
) -> None:
    registry = ModelRegistry(f"{s3_store.url}/models")
    model = registry.register(folder, "mnist")
    cache_folder.mkdir(mode=0o700)
    left = cache_folder / "gone-1-0123456789abcdef.new"
    left.mkdir()
    (left / "state.json").write_text(json.dumps({"size_bytes": CACHE_BYTES - model.size_bytes + 1}))
    registry.path("mnist")
    assert not left.exists()


def test_a_transfer_ends_when_it_is_asked_to(
    s3_store: ObjectStore, folder: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(f"{s3_store.url}/models")
    registry.register(folder, "mnist")
    stop, hanging = threading.Event(), threading.Event()
    cat_file = registry._models._fs.cat_file  # type: ignore[union-attr]

    def hang(path: str, **options: Any) -> bytes:
        if "/data/" in path:
            stop.set()
            hanging.wait(60)
        return bytes(cat_file(path, **options))

    monkeypatch.setattr(registry._models._fs, "cat_file", hang)  # type: ignore[union-attr]
    with pytest.raises(TransferStoppedError):
        registry.find("mnist", None, stop)
    hanging.set()
    assert [path for path in cache_folder.iterdir() if path.is_dir()] == []


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigurationError, match="is writable for others"):
        ModelCache(CacheSettings(str(tmp_path / "open"), 1))._make_root()


def test_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRFLOW_CONFIG", str(tmp_path / "airflow.cfg"))
    (tmp_path / "airflow.cfg").write_text(
        "[parallelrun]\nmodels_cache = /from/file\nmodels_cache_bytes = 3 GB\n"
    )
    assert cache_settings() == (str(tmp_path / "cache"), 3 << 30)
    monkeypatch.delenv("PARALLELRUN_MODELS_CACHE")
    monkeypatch.setenv("PARALLELRUN_MODELS_CACHE_BYTES", "12345")
    assert cache_settings() == ("/from/file", 12345)
    for wrong in ("much", "0", "-1", "1.5GB"):
        with monkeypatch.context() as patch:
            patch.setenv("PARALLELRUN_MODELS_CACHE_BYTES", wrong)
            with pytest.raises(InvalidValueError, match="models_cache_bytes must be a number of bytes, or"):
                cache_settings()
