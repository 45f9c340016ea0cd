# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datetime
import hashlib
import json
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InvalidValueError,
    ModelNotFoundError,
    StorageError,
)
from airflow_parallelrun.models import Model, ModelRegistry, models_root


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "registry")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mnist"
    (made / "variables").mkdir(parents=True)
    (made / "mnist-tf.model.meta").write_bytes(b"graph")
    (made / "variables" / "data").write_bytes(b"12345678")
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "iris.pkl"
    made.write_bytes(b"iris")
    return made


def test_a_file_stays_a_file(registry: ModelRegistry, file: Path) -> None:
    made = registry.register(file, "iris", tags={"stage": "production"}, description="three kinds")

    assert made.path == registry.path("iris") == f"{registry.root}/iris/1/data/iris.pkl"
    assert Path(made.path).read_bytes() == b"iris"
    assert (made.name, made.version, made.size_bytes) == ("iris", 1, 4)
    assert (made.tags, made.description) == ({"stage": "production"}, "three kinds")
    assert datetime.datetime.fromisoformat(made.created_at).utcoffset() == datetime.timedelta(0)
    assert registry.list() == [made]


def test_a_folder_stays_a_folder(registry: ModelRegistry, folder: Path) -> None:
    (folder / "linked").symlink_to(folder / "variables")
    made = registry.register(f"{folder}/", "mnist")

    copied = Path(made.path)
    assert copied == Path(registry.root, "mnist", "1", "data", "mnist")
    assert sorted(str(item.relative_to(copied)) for item in copied.rglob("*") if item.is_file()) == [
        "linked/data",
        "mnist-tf.model.meta",
        "variables/data",
    ]
    assert not (copied / "linked").is_symlink()
    assert made.size_bytes == 21


def test_versions_count_up_and_the_latest_is_the_default(registry: ModelRegistry, file: Path) -> None:
    for content in range(11):
        file.write_text(str(content))
        assert registry.register(file, "iris").version == content + 1

    assert Path(registry.path("iris")).read_text() == "10"
    assert Path(registry.path("iris", 2)).read_text() == "1"
    assert [model.version for model in registry.list()] == list(range(1, 12))


def test_the_description_on_disk(registry: ModelRegistry, file: Path) -> None:
    made = registry.register(file, "iris", tags={"a": "ä"})

    assert json.loads(Path(registry.root, "iris/1/model.json").read_text(encoding="utf-8")) == {
        "format_version": 1,
        "name": "iris",
        "version": 1,
        "tags": {"a": "ä"},
        "description": None,
        "created_at": made.created_at,
        "size_bytes": 4,
        "files": [{"path": "iris.pkl", "size": 4, "sha256": hashlib.sha256(b"iris").hexdigest()}],
    }


def test_everybody_may_read_as_the_umask_says(registry: ModelRegistry, folder: Path) -> None:
    before = os.umask(0o022)
    try:
        registry.register(folder, "mnist")
    finally:
        os.umask(before)
    assert Path(registry.root, "mnist/1").stat().st_mode & 0o777 == 0o755


def _register(root: str, source: str, barrier: Any, results: Any) -> None:
    registry = ModelRegistry(root)
    barrier.wait(30)
    results.put([registry.register(source, "mnist").version for _ in range(10)])


def test_registrations_at_once_get_versions_of_their_own(registry: ModelRegistry, folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    work = (registry.root, str(folder), barrier, results)
    processes = [context.Process(target=_register, args=work) for _ in range(4)]
    for process in processes:
        process.start()
    versions = [version for _ in processes for version in results.get(timeout=60)]
    for process in processes:
        process.join(60)

    assert sorted(versions) == list(range(1, 41))
    assert [(model.version, model.size_bytes) for model in registry.list()] == [(n, 13) for n in range(1, 41)]
    assert not list(Path(registry.root).rglob(".new-*"))
    for model in registry.list():
        about = json.loads(Path(registry.root, "mnist", str(model.version), "model.json").read_text())
        assert about["version"] == model.version


def test_what_is_not_there(registry: ModelRegistry, file: Path) -> None:
    assert registry.list() == []
    with pytest.raises(ModelNotFoundError, match="the model 'mnist' is not registered in"):
        registry.path("mnist")
    registry.register(file, "mnist")
    with pytest.raises(
        ModelNotFoundError, match=r"'mnst' .*Did you mean 'mnist'\? Register it: parallelrun models"
    ):
        registry.path("mnst")
    for version in (2, 0, -1):
        with pytest.raises(ModelNotFoundError, match=f"'mnist:{version}'"):
            registry.path("mnist", version)
    for wrong in ("1", True, 1.0):
        with pytest.raises(InvalidValueError, match="version must be a whole number, or None for the latest"):
            registry.path("mnist", wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", ".hidden", "-a", "a b", "a\n", "ä", "a" * 256, None]
)
def test_names_are_no_paths(registry: ModelRegistry, file: Path, name: Any) -> None:
    for use in (lambda: registry.register(file, name), lambda: registry.path(name)):
        with pytest.raises(InvalidValueError, match="the name of a model must be 1 to 255 letters"):
            use()
    assert not Path(registry.root).exists()


def test_what_cannot_be_registered(registry: ModelRegistry, file: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", "/", "/dev/null"):
        with pytest.raises(InvalidValueError, match="the path of a model must be an existing file or folder"):
            registry.register(path, "mnist")
    with pytest.raises(InvalidValueError, match="the path of a model must be outside of the registry"):
        registry.register(tmp_path, "mnist")
    for tags in ({"a": 1}, {1: "a"}):
        with pytest.raises(InvalidValueError, match="tags must be a dict of text to text"):
            registry.register(file, "mnist", tags=tags)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="description must be text, got 5"):
        registry.register(file, "mnist", description=5)  # type: ignore[arg-type]
    assert not Path(registry.root).exists()


def test_a_registration_that_fails_leaves_nothing(registry: ModelRegistry, folder: Path) -> None:
    (folder / "dangling").symlink_to(folder / "nothing")
    with pytest.raises(
        StorageError, match=r"mnist could not be registered: .*dangling' \(1 of its files failed"
    ):
        registry.register(folder, "mnist")
    assert os.listdir(Path(registry.root, "mnist")) == []
    assert registry.list() == []


def test_what_is_not_a_model_is_not_listed(registry: ModelRegistry, file: Path) -> None:
    made = registry.register(file, "iris")
    Path(registry.root, "README").write_text("")
    Path(registry.root, "iris", ".new-0").mkdir()
    Path(registry.root, "lost+found").mkdir()

    assert registry.list() == [made]


def test_a_damaged_registry_says_where(registry: ModelRegistry, file: Path) -> None:
    registry.register(file, "iris")
    about = Path(registry.root, "iris/1/model.json")
    about.write_text("{}")
    with pytest.raises(StorageError, match=rf"{about}: is not a model's description: KeyError"):
        registry.list()
    Path(registry.path("iris")).unlink()
    with pytest.raises(StorageError, match="iris/1/data: holds 0 entries where a model has one"):
        registry.path("iris")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("PARALLELRUN_MODELS_ROOT", "AIRFLOW__PARALLELRUN__MODELS_ROOT", "AIRFLOW_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    (tmp_path / "airflow").mkdir()
    return tmp_path


def test_the_root_and_its_precedence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = "[core]\nx = %(y)s %\n[parallelrun]\nmodels_root = {}\n"
    (home / "airflow/airflow.cfg").write_text(section.format("/from/home"))
    assert models_root() == "/from/home"
    monkeypatch.delenv("AIRFLOW_HOME")
    assert models_root() == "/from/home"
    (home / "other.cfg").write_text(section.format(" ~/from/config "))
    monkeypatch.setenv("AIRFLOW_CONFIG", str(home / "other.cfg"))
    assert models_root() == f"{home}/from/config"
    monkeypatch.setenv("AIRFLOW__PARALLELRUN__MODELS_ROOT", "$HOME/from/airflow")
    assert models_root() == f"{home}/from/airflow"
    monkeypatch.setenv("PARALLELRUN_MODELS_ROOT", "/from/own")
    assert models_root() == "/from/own"
    monkeypatch.setenv("PARALLELRUN_MODELS_ROOT", " ")
    assert models_root() == f"{home}/from/airflow"


def test_no_root_names_every_place(home: Path) -> None:
    expected = (
        "no model registry is configured. Looked at: "
        "PARALLELRUN_MODELS_ROOT, AIRFLOW__PARALLELRUN__MODELS_ROOT "
        f"in the environment, and [parallelrun] models_root in '{home}/airflow/airflow.cfg'. Set one"
    )
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        models_root()
    with pytest.raises(ConfigurationError, match="no model registry"):
        Model.get_model_path("mnist")


def test_a_file_that_is_no_configuration(home: Path) -> None:
    (home / "airflow/airflow.cfg").write_text("models_root = /x\n")
    with pytest.raises(ConfigurationError, match=r"airflow\.cfg' cannot be read as Airflow's configuration"):
        models_root()


def test_the_model_class(home: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLELRUN_MODELS_ROOT", str(home / "models"))

    first = Model.register(file, "iris", tags={"a": "b"}, description="text")
    second = Model.register(model_path=file, model_name="iris")
    assert Model.get_model_path("iris") == second.path
    assert Model.get_model_path("iris", version=1) == first.path
