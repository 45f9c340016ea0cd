# SPDX-License-Identifier: Apache-2.0
"""Temporary folders are removed by their process, or by the next one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from airflow_parallelrun.engine.scratch import ScratchFolder, remove_abandoned

HOLDER = """
import sys
from airflow_parallelrun.engine.scratch import ScratchFolder
folder = ScratchFolder()
open(folder.path + "/file", "w").close()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_is_there_until_it_is_closed(temp: Path) -> None:
    folder = ScratchFolder()
    Path(folder.path, "file").touch()
    remove_abandoned()
    assert Path(folder.path, "file").exists()
    folder.close()
    assert list(temp.iterdir()) == []


def test_what_a_killed_process_has_left_goes_with_the_next_one(temp: Path) -> None:
    (temp / "parallelrun-notes").mkdir()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().strip())
        remove_abandoned()
        assert (left / "file").exists()
        holder.kill()
    folder = ScratchFolder()
    assert sorted(temp.iterdir()) == sorted([temp / "parallelrun-notes", Path(folder.path)])
    folder.close()
