# SPDX-License-Identifier: Apache-2.0
"""profiling_module: one file of figures for each process, by either of Python's profilers."""

from __future__ import annotations

import pstats
import subprocess
import sys

import pytest

from airflow_parallelrun.worker import profiling
from airflow_parallelrun.worker.errors import ContractError
from airflow_parallelrun.worker.profiling import Profiler

BOTH = pytest.mark.parametrize("module", ["cProfile", "profile"])


def work(count):
    return sum(part(number) for number in range(count))


def part(number):
    return number * number


def fail():
    part(0)
    raise KeyError("as it is")


def calls(path, name):
    """How often a function was called, as the file has it."""
    return sum(
        value[1] for (_, _, function), value in pstats.Stats(str(path)).stats.items() if function == name
    )


@BOTH
def test_all_calls_are_added_up_also_behind_a_write_and_an_exception(tmp_path, module):
    path = tmp_path / "deep" / "process000.profile"
    profiler = Profiler(module, str(path))
    assert profiler.call(work, 3) == 5
    assert not path.exists()
    profiler.write()
    assert (calls(path, "work"), calls(path, "part")) == (1, 3)
    with pytest.raises(KeyError, match="as it is"):
        profiler.call(fail)
    profiler.call(work, 4)
    work(100)  # not by the profiler
    profiler.write()
    assert (calls(path, "work"), calls(path, "part"), calls(path, "fail")) == (2, 8, 1)
    assert [entry.name for entry in path.parent.iterdir()] == ["process000.profile"]


@BOTH
def test_it_is_written_every_so_often(tmp_path, module, monkeypatch):
    path = tmp_path / "process000.profile"
    profiler = Profiler(module, str(path))
    monkeypatch.setattr(profiling, "INTERVAL_S", 0.0)
    profiler.call(work, 3)
    assert calls(path, "part") == 3
    with pytest.raises(KeyError):
        profiler.call(fail)
    assert calls(path, "part") == 4


def test_a_place_that_cannot_be_written_fails_nothing(tmp_path, capsys):
    (tmp_path / "file").touch()
    profiler = Profiler("cProfile", str(tmp_path / "file" / "process000.profile"))
    assert profiler.call(work, 3) == 5
    profiler.write()
    assert "the profile cannot be written: " in capsys.readouterr().err


def test_an_interpreter_without_the_module_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "profile", None)
    with pytest.raises(
        ContractError, match=f"profiling_module is profile, which {sys.executable} cannot import"
    ):
        Profiler("profile", "/x")


def test_no_profiler_is_imported_for_those_who_do_not_ask():
    code = (
        "import sys\nimport airflow_parallelrun.worker.process\n"
        "sys.exit('cProfile' in sys.modules or 'profile' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
