# SPDX-License-Identifier: Apache-2.0
"""Where the code of a job may lie, and what of it is left out."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from workbench import make_config

from airflow_parallelrun.engine import code_folder
from airflow_parallelrun.engine.snapshot import freeze, take, unpack
from airflow_parallelrun.engine.split import split
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EntryScriptNotFoundError,
    InvalidValueError,
    StorageError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Job
    from storage_servers import ObjectStore

SCRIPT = "def run(batch): return batch\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for name in ("score.py", "lib/helper.py", "data/train.csv", "data/deep/x.csv", "notes.log"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SCRIPT)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(freeze(str(folder)).names)


def test_what_gitignore_names_is_left_out(source: Path) -> None:
    (source / ".gitignore").write_text("# data is no code\n/data/\n*.log\n!keep.log\n\n")
    (source / "keep.log").write_text("")
    assert names(source) == [".gitignore", "keep.log", "lib/helper.py", "score.py"]


def test_amlignore_counts_alone_where_there_is_one(source: Path) -> None:
    (source / ".gitignore").write_text("*.py\n")
    (source / ".amlignore").write_bytes(b"\xef\xbb\xbfdata/*\r\n!data/train.csv\r\n")
    found = names(source)
    assert found == [
        ".amlignore",
        ".gitignore",
        "data/train.csv",
        "lib/helper.py",
        "notes.log",
        "score.py",
    ]


def test_a_folder_that_is_left_out_is_not_looked_into(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / ".gitignore").write_text("data\n.*/\n")
    (source / ".venv").mkdir()
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    freeze(str(source))
    assert listed == [str(source), str(source / "lib")]


def test_an_entry_script_that_is_left_out_is_an_error_of_the_ignore_file(source: Path) -> None:
    (source / ".gitignore").write_text("lib\n")
    config = make_config(source_directory=str(source), entry_script="lib/helper.py")
    with pytest.raises(ConfigurationError, match=r"'lib/helper\.py' is left out .* by \.gitignore"):
        take(config, ".")
    assert take(make_config(source_directory=str(source)), ".")[1] == "score.py"


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"data\n!\n", "line 2: '!' is no pattern"), (b"\xff\xfe", r"\.amlignore .* is not UTF-8")],
)
def test_an_ignore_file_that_cannot_be_used(source: Path, content: bytes, why: str) -> None:
    (source / ".amlignore").write_bytes(content)
    with pytest.raises(ConfigurationError, match=why):
        freeze(str(source))


def test_a_single_file(source: Path) -> None:
    snapshot, entry_script = take(make_config(source_directory="source/score.py"), str(source.parent))
    assert (snapshot.names, entry_script) == ({"score.py"}, "score.py")
    config = make_config(source_directory="source/score.py", entry_script="other.py")
    with pytest.raises(EntryScriptNotFoundError, match=r"'other\.py' in the source directory 'source/score"):
        take(config, str(source.parent))


def zipped(source: Path) -> Path:
    path = source.parent / "code.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in source.rglob("*"):
            archive.write(file, file.relative_to(source))
    return path


def tarred(source: Path) -> Path:
    path = source.parent / "code.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(source, ".")
    return path


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_the_folder_that_was_packed(source: Path, tmp_path: Path, pack) -> None:
    (source / ".amlignore").write_text("data\n")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    archive = pack(source)
    snapshot = take(make_config(source_directory=str(archive)), ".")[0]
    assert snapshot.names == {".amlignore", "lib/helper.py", "notes.log", "run.sh", "score.py"}
    target = tmp_path / "target"
    target.mkdir()
    unpack(snapshot.archive, str(target))
    assert os.access(target / "run.sh", os.X_OK)
    assert take(make_config(source_directory=f"file://{archive}"), ".")[0] == snapshot


def test_an_archive_that_is_too_large_is_refused_before_it_is_unpacked(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_folder, "SIZE_LIMIT_BYTES", 1 << 20)
    (source / "zeros").write_bytes(bytes(2 << 20))
    config = make_config(source_directory=str(zipped(source)))
    with pytest.raises(ConfigurationError, match=r"2\.0 MiB, more than the 1 MiB .* zeros \(2\.0 MiB\)"):
        take(config, ".")


def test_an_archive_that_is_none(source: Path) -> None:
    for name in ("code.zip", "code.tar.gz", "code.tgz"):
        (source / name).write_text("no archive")
        with pytest.raises(ConfigurationError, match=rf"{name}' cannot be unpacked"):
            take(make_config(source_directory=str(source / name)), ".")


def test_an_archive_writes_nowhere_else(source: Path) -> None:
    path = source.parent / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("../outside.py")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"1\n"))
    with pytest.raises(ConfigurationError, match=r"cannot be unpacked: .*outside"):
        take(make_config(source_directory=str(path)), ".")


@pytest.mark.parametrize("given", ["nowhere", "source/notes.log"])
def test_what_cannot_be_a_source_directory(source: Path, given: str) -> None:
    with pytest.raises(InvalidValueError, match=r"an existing folder, Python file, .zip or .tar.gz archive"):
        take(make_config(source_directory=given), str(source.parent))


def test_code_in_an_object_store(object_store: ObjectStore, source: Path) -> None:
    for file in source.rglob("*"):
        if file.is_file():
            object_store.write(f"jobs/one/{file.relative_to(source)}", file.read_bytes())
    object_store.write("jobs/one/.gitignore", b"data/\n*.log\n")
    object_store.write("jobs/one/[odd] n*me?.py", b"")
    # How consoles of stores make a folder.
    object_store.write("jobs/one/lib/")
    snapshot, _ = take(make_config(source_directory=f"{object_store.url}/jobs/one/"), ".")
    assert snapshot.names == {".gitignore", "[odd] n*me?.py", "lib/helper.py", "score.py"}
    (source / ".gitignore").write_text("data/\n*.log\n")
    (source / "[odd] n*me?.py").write_text("")
    assert freeze(str(source)).sha256 == snapshot.sha256

    url = object_store.write("jobs/code.zip", zipped(source).read_bytes())
    assert take(make_config(source_directory=url), ".")[0].sha256 == snapshot.sha256
    alone = take(make_config(source_directory=f"{object_store.url}/jobs/one/score.py"), ".")[0]
    assert alone.names == {"score.py"}


def test_code_that_a_store_does_not_have(s3_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidValueError, match="source_directory must be an existing folder"):
        take(make_config(source_directory=f"{s3_store.url}/nowhere"), ".")
    monkeypatch.setattr(code_folder, "SIZE_LIMIT_BYTES", 1 << 20)
    s3_store.write("code/score.py", SCRIPT.encode())
    s3_store.write("code/weights.bin", bytes(2 << 20))
    with pytest.raises(ConfigurationError, match=r"The largest in it: weights\.bin \(2\.0 MiB\)"):
        take(make_config(source_directory=f"{s3_store.url}/code"), ".")


@pytest.mark.usefixtures("at_once")
def test_a_store_that_cannot_be_asked_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "key": "an-id",
        "secret": "not-to-be-told",
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    monkeypatch.setenv("PARALLELRUN_CONNECTION_NOBODY", json.dumps(options))
    with pytest.raises(StorageError, match="s3://nobody@bucket/code: EndpointConnectionError"):
        take(make_config(source_directory="s3://nobody@bucket/code"), ".")


def test_nodes_and_retries_run_what_was_frozen(job: Job) -> None:
    folder = job.folder / "bundles" / "version-1" / "dags"
    (folder / "scripts").mkdir(parents=True)
    script = folder / "scripts" / "score.py"
    script.write_text("def run(mini_batch):\n    return ['version 1' for _ in mini_batch]\n")
    job.files(4)
    request = job.request(node_count=2, source_directory="scripts")
    inputs = tuple(each.resolve(str(job.folder)) for each in request.inputs)
    # As Airflow has it: relative to the folder of the DAG file, wherever its bundle has been unpacked.
    asked = replace(
        request, base_directory=str(folder), inputs=inputs, output=str(job.output), owner="dag/run/step"
    )
    job.plan = split(asked)
    job.node(0)
    script.write_text("def run(mini_batch):\n    return ['version 2' for _ in mini_batch]\n")
    shutil.rmtree(job.folder / "bundles")
    job.node(1)
    job.node(1)
    job.reduce()
    assert job.rows() == ["version 1"] * 4
