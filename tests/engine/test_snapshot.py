# SPDX-License-Identifier: Apache-2.0
"""The code snapshot: the same bytes for the same code, and only code."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile

import pytest

from airflow_parallelrun.engine import code_folder
from airflow_parallelrun.engine.snapshot import check_entry_script, freeze, unpack
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EntryScriptContractError,
    EntryScriptNotFoundError,
)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "lib").mkdir(parents=True)
    (folder / "score.py").write_text("def run(batch): return batch\n")
    (folder / "lib" / "é.py").write_text("X = 1\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def names_in(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return file.namelist()


def test_the_archive_depends_on_names_and_contents_alone(source, tmp_path):
    first = freeze(str(source))
    other = tmp_path / "copy"
    (other / "lib").mkdir(parents=True)
    for name in ("run.sh", "lib/é.py", "score.py"):  # another order, other times
        (other / name).write_bytes((source / name).read_bytes())
        (other / name).chmod(stat.S_IMODE((source / name).stat().st_mode))
        os.utime(other / name, (1, 1))
    assert freeze(str(other)) == first
    assert first.sha256 == hashlib.sha256(first.archive).hexdigest()
    (other / "score.py").write_text("def run(batch): return []\n")
    assert freeze(str(other)).sha256 != first.sha256


def test_unpacked_as_it_was(source, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    unpack(freeze(str(source)).archive, str(target))
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == ["run.sh", "score.py", "é.py"]
    assert (target / "lib" / "é.py").read_text() == "X = 1\n"


def test_what_was_executable_is_executable_again(source, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    unpack(freeze(str(source)).archive, str(target))
    assert os.access(target / "run.sh", os.X_OK)
    assert not (target / "score.py").stat().st_mode & stat.S_IXUSR


def test_version_control_byte_code_environments_and_runs_are_left_out(source):
    for name in (".git/config", "__pycache__/score.cpython-311.pyc", ".venv/bin/python", "old.pyc",
                 "lib/__pycache__/x.pyc", ".parallelrun/owner.json"):  # fmt: skip
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("x")
    (source / ".hidden").write_text("kept")
    assert names_in(freeze(str(source)).archive) == [".hidden", "lib/é.py", "run.sh", "score.py"]


def test_what_is_no_file_is_left_out_and_a_link_to_a_file_is_its_content(source, tmp_path):
    os.mkfifo(source / "pipe")
    (source / "dangling").symlink_to("nowhere")
    (tmp_path / "shared.py").write_text("SHARED = 1\n")
    (source / "linked.py").symlink_to(tmp_path / "shared.py")
    archive = freeze(str(source)).archive
    assert names_in(archive) == ["lib/é.py", "linked.py", "run.sh", "score.py"]
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        assert file.read("linked.py") == b"SHARED = 1\n"


def test_a_linked_folder_is_code_too(source, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "helper.py").write_text("")
    (source / "shared").symlink_to(tmp_path / "shared")
    assert "shared/helper.py" in names_in(freeze(str(source)).archive)


def test_two_ways_to_one_folder_are_both_kept(source):
    (source / "a_link").symlink_to("lib")
    (source / "z_link").symlink_to("lib")
    names = names_in(freeze(str(source)).archive)
    assert {"a_link/é.py", "lib/é.py", "z_link/é.py"} <= set(names)


def test_links_in_a_circle_end(source):
    (source / "other").mkdir()
    (source / "other" / "x.py").write_text("")
    (source / "lib" / "there").symlink_to("../other")
    (source / "other" / "back").symlink_to("../lib")
    (source / "lib" / "up").symlink_to("..")
    names = names_in(freeze(str(source)).archive)
    assert {"lib/é.py", "other/x.py", "lib/there/x.py", "other/back/é.py", "score.py"} <= set(names)
    assert len(names) < 50


def test_an_output_inside_the_source_is_left_out(source):
    (source / "results").mkdir()
    (source / "results" / "rows.txt").write_text("rows")
    with_it = freeze(str(source))
    without = freeze(str(source), [str(source / "results")])
    assert "results/rows.txt" in names_in(with_it.archive)
    assert names_in(without.archive) == ["lib/é.py", "run.sh", "score.py"]
    assert freeze(str(source), [str(source), str(source.parent)]) == with_it


def test_too_much_is_refused_and_what_is_large_is_named(source, monkeypatch):
    monkeypatch.setattr(code_folder, "SIZE_LIMIT_BYTES", 20 << 20)
    for name, mib in (("weights.bin", 15), ("data/a/1.npy", 4), ("data/a/2.npy", 3), ("data/b/3.npy", 2)):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        with (source / name).open("wb") as file:
            file.truncate(mib << 20)
    with pytest.raises(ConfigurationError, match=r"has 24\.0 MiB, more than the 20 MiB") as caught:
        freeze(str(source))
    assert "data/a/ (7.0 MiB), data/b/ (2.0 MiB)" in str(caught.value)
    assert "weights.bin (15.0 MiB), data/a/1.npy (4.0 MiB), data/a/2.npy (3.0 MiB)" in str(caught.value)
    (source / ".amlignore").write_text("weights.bin\n")
    assert "data/a/1.npy" in names_in(freeze(str(source)).archive)


def test_a_name_that_cannot_be_kept_is_named(source):
    with open(os.fsencode(source) + b"/\xff.py", "w"):
        pass
    with pytest.raises(ConfigurationError, match="udcff"):
        freeze(str(source))


def test_a_good_script(source):
    check_entry_script(str(source), "score.py", compile_it=True)


@pytest.mark.parametrize("script", ["gone.py", "lib", "../outside.py", "link.py"])
def test_a_script_that_is_not_in_the_folder(source, tmp_path, script):
    (tmp_path / "outside.py").write_text("def run(batch): return batch\n")
    (source / "link.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(EntryScriptNotFoundError, match="relative to source_directory"):
        check_entry_script(str(source), script, compile_it=True)


def test_a_script_with_another_ending(source):
    with pytest.raises(EntryScriptContractError, match=r"ends in .py"):
        check_entry_script(str(source), "run.sh", compile_it=True)


def test_syntax_is_not_judged_for_another_interpreter(source):
    (source / "score.py").write_text("print 'Python 2'\n")
    check_entry_script(str(source), "score.py", compile_it=False)
    with pytest.raises(EntryScriptContractError, match=r"score\.py: is not valid Python: line 1"):
        check_entry_script(str(source), "score.py", compile_it=True)
