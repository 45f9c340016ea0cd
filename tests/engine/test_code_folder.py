# SPDX-License-Identifier: Apache-2.0
"""Where the code of a job may lie, and what of it is left out."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
from workbench import make_config

from airflow_parallelrun.engine import code_folder
from airflow_parallelrun.engine.snapshot import freeze, take, unpack
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EntryScriptNotFoundError,
    InvalidValueError,
)

if TYPE_CHECKING:
    from pathlib import Path

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
