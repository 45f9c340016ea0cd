# SPDX-License-Identifier: Apache-2.0
"""A worker's end: quick, and behind all that a script may count on."""

from __future__ import annotations

import gzip
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from airflow_parallelrun.worker import bootstrap

WORKER = Path(bootstrap.__file__).parent
MAIN = f"""
import sys
sys.path.insert(0, {str(WORKER)!r})
import leaving
left = leaving.Leaving()
import script
left.source_directory, left.status = sys.argv[1], STATUS
"""


@pytest.fixture
def leave(tmp_path):
    def leave(script, status=0):
        (tmp_path / "script.py").write_text(textwrap.dedent(script))
        main = MAIN.replace("STATUS", str(status)).replace(
            "import script", "import sys; sys.path.insert(0, sys.argv[1]); import script"
        )
        return subprocess.run(
            [sys.executable, "-c", main, str(tmp_path)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return leave


def test_files_that_the_script_left_open_are_whole(leave, tmp_path):
    ended = leave("""
        import gzip
        plain = open("plain", "w")
        plain.write("rows")
        zipped = gzip.open("zipped", "wt")
        zipped.write("rows")

        class Writer:
            def __init__(self):
                self.file, self.itself = open("cyclic", "w"), self
                self.file.write("ro")
            def __del__(self):
                self.file.write("ws")
                self.file.close()

        writer = Writer()
        def closure():
            hidden = open("hidden", "w")
            hidden.write("rows")
            return lambda: hidden
        sys_holds_it = __import__("sys").somewhere = closure()
    """)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [(tmp_path / name).read_text() for name in ("plain", "cyclic", "hidden")] == ["rows"] * 3
    assert gzip.decompress((tmp_path / "zipped").read_bytes()) == b"rows"


def test_what_was_registered_runs_and_threads_end_before(leave):
    ended = leave("""
        import atexit, threading, time
        atexit.register(lambda: print("registered"))
        def late():
            time.sleep(0.3)
            print("thread")
        threading.Thread(target=late).start()
    """)
    assert ended.stdout.split() == ["thread", "registered"]


def test_what_c_code_prints_is_not_lost(leave):
    ended = leave("""
        import ctypes
        ctypes.CDLL(None).printf(b"from C")
        print("from Python")
    """)
    assert sorted(ended.stdout.split("from ")) == ["", "C", "Python\n"]


def test_the_rest_of_the_interpreter_is_not_taken_apart(leave):
    ended = leave("""
        import sys
        class Loud:
            def __del__(self): print("taken apart")
        sys.library = Loud()
    """)
    assert ended.stdout == ""


def test_nothing_that_the_script_leaves_behind_is_in_its_way(leave):
    ended = leave("""
        import sys, threading, time, weakref
        class Gone: pass
        sys.proxy = weakref.proxy(Gone())
        class Module:
            def __getattr__(self, name): raise RuntimeError(name)
        sys.modules["odd"] = Module()
        value = 1
        def beat():
            while True:
                value + 1
        threading.Thread(target=beat, daemon=True).start()
        time.sleep(0.1)
    """)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_child_of_the_script_is_waited_for(leave):
    ended = leave("""
        import multiprocessing, sys, time
        def late():
            time.sleep(0.3)
            print("child", flush=True)
        multiprocessing.get_context("fork").Process(target=late).start()
    """)
    assert ended.stdout == "child\n"


@pytest.mark.parametrize("status", [0, 1])
def test_the_exit_status(leave, status):
    assert leave("", status).returncode == status
