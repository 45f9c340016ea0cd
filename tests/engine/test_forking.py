# SPDX-License-Identifier: Apache-2.0
"""The fork server: what it imports, whose children its workers are, and what happens when it is gone."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from workbench import make_config, make_plan, wait_for

from airflow_parallelrun.engine import forking
from airflow_parallelrun.engine import launcher as launching
from airflow_parallelrun.engine.forking import Import, imports, worth_importing
from airflow_parallelrun.engine.launcher import Launcher
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.rounds import Started

FORKED = """
    import os
    import random
    import numpy

    def init():
        print("parent", os.getppid(), "draws", numpy.random.rand(), random.random(), flush=True)

    def run(mini_batch):
        called(mini_batch)
        return [os.path.basename(path) for path in mini_batch]
"""


@pytest.fixture
def project(tmp_path):
    """Write files of a project; returns its folder."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".py").write_text(text)
        return str(tmp_path)

    return write


def found(folder, script="score.py"):
    return [each.module for each in imports(f"{folder}/{script}", [folder])]


def test_imports_of_the_script_and_of_what_it_imports_count(project):
    folder = project(
        score="import numpy as np, helper\nfrom PIL import Image\nfrom pkg.sub import one\nfrom . import x\n",
        helper="from sklearn.linear_model import LogisticRegression\nimport score\n",
        pkg__sub="import pandas.io\n",
    )
    assert sorted(found(folder)) == ["PIL", "numpy", "pandas.io", "sklearn.linear_model"]
    assert Import("PIL", ("Image",)) in list(imports(f"{folder}/score.py", [folder]))


def test_what_is_imported_inside_a_function_waits_until_then(project):
    assert found(project(score="def init():\n    import tensorflow\nif True:\n    import json\n")) == []


@pytest.mark.parametrize("text", ["def (", "\0", "import"])
def test_a_script_that_is_no_python_is_the_workers_to_complain_about(project, text):
    assert found(project(score=text)) == []
    assert found(project(score="pass"), "nothing.py") == []


@pytest.mark.parametrize(
    ("method", "gpu", "wanted"),
    [
        ("auto", False, ["numpy"]),
        ("auto", True, []),
        ("fork", False, ["json", "numpy"]),
        ("fork", True, ["json", "numpy"]),
        ("exec", False, []),
    ],
)
def test_what_is_worth_importing(project, monkeypatch, tmp_path, method, gpu, wanted):
    folder = project(score="import json, numpy\n")
    monkeypatch.setattr(forking, "_NVIDIA", str(tmp_path) if gpu else str(tmp_path / "no"))
    plan = make_plan(tmp_path, config=make_config(start_method=method))
    assert [each.module for each in worth_importing(plan, folder)] == wanted


def log_of(job, attempt="0-1"):
    folder = job.output / "logs" / "user" / "stdout" / attempt
    return [path.read_text() for path in sorted(folder.iterdir())]


def test_forked_workers_are_the_nodes_children_and_draw_numbers_of_their_own(job):
    # None is done before the others are there.
    script = FORKED.replace("called(mini_batch)", "called(mini_batch); _wait_for_all()")
    script += """
    def _wait_for_all():
        import time
        while len(os.listdir(os.environ["CALLS"])) < 3:
            time.sleep(0.02)
"""
    variables = {"CALLS": str(job.folder / "calls")}
    others = set(psutil.Process().children())
    job.files(20).split(script, process_count_per_node=3, environment_variables=variables).run()
    assert job.rows() == job.names(20)
    logs = log_of(job)
    assert [text.split()[1] for text in logs] == [str(os.getpid())] * 3
    draws = [number for text in logs for number in text.split()[3:]]
    assert len(set(draws)) == 6
    assert set(psutil.Process().children()) <= others


def test_started_by_exec_it_is_the_same(job):
    job.files(20).split(FORKED, start_method="exec").run()
    assert job.rows() == job.names(20)
    assert not list(job.output.glob("logs/user/stderr/*/fork_server*"))


@pytest.mark.parametrize("fault", ["os._exit(3)", "os.kill(os.getpid(), 9)", "import time; time.sleep(60)"])
def test_a_forked_worker_that_dies_is_charged_and_replaced(job, fault):
    script = FORKED.replace("called(mini_batch)", 'called(mini_batch); "00003" in mini_batch[0] and _fail()')
    script += f"\n    def _fail():\n        {fault}\n"
    job.files(12).split(script, run_max_try=2, run_invocation_timeout=1, error_threshold=1)
    result = job.run()
    assert (result.counts.succeeded, result.counts.failed) == (11, 1)
    assert job.calls()["00003"] == 2
    assert job.rows() == job.names(12, without={3})
    assert len(log_of(job)) >= 3


@pytest.mark.parametrize(
    ("fault", "told"),
    [("os._exit(9)", "the fork server is gone; starting processes by exec"), ("sys.exit(3)", "is ready")],
)
def test_a_library_that_breaks_the_fork_server_is_imported_by_the_workers(job, caplog, fault, told):
    library = job.folder / "library"
    library.mkdir()
    broken = f"import os, sys\nif os.environ['PARALLELRUN_TAG'].endswith('.f'):\n    {fault}\n"
    (library / "fragile.py").write_text(broken)
    script = FORKED.replace("import numpy", "import numpy, fragile")
    caplog.set_level("INFO")
    variables = {"PYTHONPATH": str(library)}
    job.files(6).split(script, start_method="fork", environment_variables=variables).run()
    assert job.rows() == job.names(6)
    assert told in caplog.text


def test_what_a_library_prints_when_it_is_imported_is_not_every_workers(job):
    library = job.folder / "library"
    library.mkdir()
    (library / "chatty.py").write_text("import sys\nprint('hello')\nprint('hum', file=sys.stderr)\n")
    script = FORKED.replace("import numpy", "import numpy, chatty")
    variables = {"PYTHONPATH": str(library)}
    job.files(6).split(script, start_method="fork", environment_variables=variables).run()
    assert job.rows() == job.names(6)
    assert not any("hello" in text for text in log_of(job))
    (prints,) = job.output.glob("logs/user/stderr/*/fork_server.stderr.txt")
    assert sorted(prints.read_text().split()) == ["hello", "hum"]


@pytest.fixture
def launcher(job, echo):
    """A launcher with a fork server, and what it tells the guardian."""
    plan = job.files(2).split(echo, start_method="fork").plan
    place = SimpleNamespace(code=str(job.folder / "source"), logs=plan.logs, output=plan.output)
    told = []
    keeper = SimpleNamespace(
        watch=lambda pid: told.append(("watch", pid)), release=lambda pid: told.append(("release", pid))
    )
    with selectors.DefaultSelector() as selector:
        made = Launcher(plan, Started(Attempt(0, 1), 0, "token"), place, selector, keeper)
        made.prepare()
        yield made, told, selector
        made.close()


def test_a_fork_server_that_is_given_up_is_no_longer_the_guardians(launcher):
    made, told, selector = launcher
    pid = made._forks.pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: selector.select(0.1))
    while made._forks is not None:  # what it may have said before comes first
        made.hear()
    assert told == [("watch", pid), ("release", pid)]
    assert not selector.get_map()
    assert not made.is_preparing


def test_a_fork_server_that_cannot_be_told_anything_leaves_no_process(launcher, job, monkeypatch, caplog):
    made, told, selector = launcher
    made.close()
    children = set(psutil.Process().children())
    monkeypatch.setattr(launching, "worth_importing", lambda *_: [Import("x" * (1 << 24), ())])
    made.prepare()
    assert "cannot be started" in caplog.text
    assert set(psutil.Process().children()) <= children
    assert [what for what, _ in told] == ["watch", "release"]
    assert not selector.get_map()


NODE = """
import sys
from airflow_parallelrun.engine.node import Node
Node(sys.argv[1], 0).run()
"""
WAITING = """
    import os, time
    import numpy

    def run(mini_batch):
        called(mini_batch)
        while not os.path.exists(os.path.join(os.environ["MARKS"], "go")):
            time.sleep(0.02)
        return [os.path.basename(path) for path in mini_batch]
"""


def start(job):
    """Start a node whose workers wait in run(); returns it, its fork server and its workers."""
    job.files(8).split(WAITING, environment_variables={"MARKS": str(job.folder)})
    node = subprocess.Popen([sys.executable, "-c", NODE, job.plan.run_dir], start_new_session=True)
    wait_for(lambda: len(list((job.folder / "calls").iterdir())) == 2)
    children = psutil.Process(node.pid).children()
    (server,) = [
        child for child in children if "fork_server" in child.cmdline() and child.pid not in workers(job)
    ]
    return node, server, [psutil.Process(pid) for pid in workers(job)]


def workers(job):
    return [int(path.name) for path in (job.folder / "calls").iterdir()]


def test_a_fork_server_that_is_killed_takes_nobody_along(job):
    node, server, _ = start(job)
    server.kill()
    time.sleep(0.3)
    os.kill(workers(job)[0], signal.SIGKILL)  # its place is taken by one that is started by exec
    (job.folder / "go").touch()
    assert node.wait(60) == 0
    assert job.reduce().verdict == "succeeded"
    assert job.rows() == job.names(8)
    assert max(job.calls().values()) == 2


def test_workers_and_fork_server_die_with_their_node(job):
    node, server, forked = start(job)
    node.kill()
    node.wait()
    _, alive = psutil.wait_procs([server, *forked], timeout=20)
    assert alive == []


def test_a_frozen_fork_server_is_given_up(job):
    node, server, _ = start(job)
    server.suspend()
    os.kill(workers(job)[0], signal.SIGKILL)
    (job.folder / "go").touch()
    assert node.wait(60) == 0
    assert not server.is_running()
    assert job.reduce().verdict == "succeeded"
    assert job.rows() == job.names(8)
