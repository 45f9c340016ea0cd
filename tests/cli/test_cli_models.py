# SPDX-License-Identifier: Apache-2.0
"""``parallelrun models``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage_servers import ObjectStore


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARALLELRUN_MODELS_ROOT", str(tmp_path / "registry"))
    return tmp_path / "registry"


@pytest.mark.usefixtures("registry")
def test_register_list_and_path(tmp_path: Path, in_process: Callable[..., Any]) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    first = in_process(
        "models", "register", "mnist", "weights.bin", "--tag", "stage=test", "--description", "small"
    )
    assert (first.status, first.out, first.err) == (0, "registered mnist:1\n", "")
    weights.write_bytes(b"two")
    assert in_process("models", "register", "mnist", "weights.bin").out == "registered mnist:2\n"

    assert in_process("models", "list").out == "mnist:1  stage=test  small\nmnist:2\n"
    listed = json.loads(in_process("models", "list", "--json").out)
    assert [(each["name"], each["version"], each["tags"]) for each in listed] == [
        ("mnist", 1, {"stage": "test"}),
        ("mnist", 2, {}),
    ]

    latest = in_process("models", "path", "mnist").out.strip()
    assert Path(latest).read_bytes() == b"two"
    assert listed[1]["path"] == latest
    assert Path(in_process("models", "path", "mnist:1").out.strip()).read_bytes() == b"one"


def test_a_folder_stays_a_folder_and_the_option_names_the_root(
    tmp_path: Path, in_process: Callable[..., Any]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("a")
    root = ("--models-root", "elsewhere")
    assert in_process("models", "register", "net", "model", *root).status == 0
    path = Path(in_process("models", "path", "net", *root).out.strip())
    assert path.is_relative_to(tmp_path / "elsewhere")
    assert (path / "a").read_text() == "a"


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("path", "mnits"), "the model 'mnits' is not registered"),
        (("path", "mnist:x"), "NAME[:VERSION] must be a model's name, or NAME:NUMBER, got 'mnist:x'"),
        (("register", "mnist", "missing.bin"), "missing.bin"),
        (("register", "mnist"), "the following arguments are required: PATH"),
    ],
)
def test_wrong_input(given: tuple[str, ...], message: str, in_process: Callable[..., Any]) -> None:
    ended = in_process("models", *given)
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err


def test_no_root_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: Callable[..., Any]
) -> None:
    for name in ("PARALLELRUN_MODELS_ROOT", "AIRFLOW__PARALLELRUN__MODELS_ROOT", "AIRFLOW_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    ended = in_process("models", "list")
    assert ended.status == 2
    assert "PARALLELRUN_MODELS_ROOT" in ended.err


def test_a_registry_in_an_object_store(
    tmp_path: Path, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, in_process: Callable[..., Any]
) -> None:
    monkeypatch.setenv("PARALLELRUN_MODELS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights.bin").write_bytes(b"one")
    root = ("--models-root", f"{object_store.url}/models")
    assert in_process("models", "register", "mnist", "weights.bin", *root).out == "registered mnist:1\n"
    assert in_process("models", "list", *root).out == "mnist:1\n"
    path = Path(in_process("models", "path", "mnist", *root).out.strip())
    assert path.read_bytes() == b"one"
    ended = in_process("models", "path", "mnist", "--models-root", "s3://no-such-store@bucket/models")
    assert ended.status == 2
    assert "there is no connection 'no-such-store'" in ended.err
