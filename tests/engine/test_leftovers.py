# SPDX-License-Identifier: Apache-2.0
"""What workers start ends with them, with their node, or with the node's next attempt."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.guarding import Guardian
from airflow_parallelrun.engine.leftovers import make_folder, remove_leftovers
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.store import Store
from airflow_parallelrun.worker.guardian import TAG_VARIABLE

NODE = """
import sys
from airflow_parallelrun.engine.node import Node
Node(sys.argv[1], 0).run()
"""

# Leaves its number, so that it is found whatever it carries.
SLEEPER = """
import subprocess, sys, time
def start(**options):
    child = subprocess.Popen(["sleep", "600"], **options)
    with open(os.path.join(FOLDER, "children"), "a") as file:
        file.write(f"{child.pid}\\n")
def wait():
    while not os.path.exists(os.path.join(FOLDER, "go")):
        time.sleep(0.02)
"""


def sleeper(job):
    """The beginning of a script that starts children and waits."""
    return SLEEPER.replace("FOLDER", repr(str(job.folder)))


def children(job):
    """The processes that scripts have started and that are alive."""
    path = job.folder / "children"
    found = [int(line) for line in path.read_text().split()] if path.exists() else []
    return [pid for pid in found if is_alive(pid)]


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition):
    """Wait for something that happens soon."""
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


@pytest.fixture
def start_node(job):
    """Start a node in a process of its own; it does not outlive the test."""
    started = []

    def start():
        command = [sys.executable, "-c", NODE, job.plan.run_dir]
        started.append(subprocess.Popen(command, start_new_session=True))
        return psutil.Process(started[-1].pid)

    yield start
    for process in started:
        process.kill()
        process.wait()


def guardian_of(node):
    """The guardian that works for a node; one that starts has the node's own command line for a moment."""
    alive = [child for child in node.children() if is_alive(child.pid)]
    return next((child for child in alive if "guardian.py" in " ".join(child.cmdline())), None)


@pytest.mark.parametrize("end", ["return mini_batch", "os._exit(1)"])
def test_child_without_the_tag_ends_with_its_worker(job, end):
    script = f"{sleeper(job)}\ndef run(mini_batch):\n    start(env={{}})\n    {end}\n"
    job.files(2).split(script, run_max_try=1, error_threshold=-1).node()
    assert len((job.folder / "children").read_text().split()) == 2
    assert children(job) == []


def test_killed_node_takes_along_what_has_no_tag(job, start_node):
    script = f"{sleeper(job)}\ndef run(mini_batch):\n    start(env={{}})\n    wait()\n    return mini_batch\n"
    job.files(2).split(script)
    node = start_node()
    wait_for(lambda: len(children(job)) == 2)
    node.kill()
    wait_for(lambda: not children(job))


def test_next_attempt_ends_what_a_node_left_that_was_killed_with_its_guardian(job, start_node):
    script = f"""{sleeper(job)}
def run(mini_batch):
    start()
    start(start_new_session=True)
    wait()
    return [os.path.basename(path) for path in mini_batch]
"""
    job.files(2).split(script)
    node = start_node()
    wait_for(lambda: len(children(job)) == 4)
    guardian = guardian_of(node)
    folder = Path(guardian.cmdline()[-1])  # behind it are the workers' sessions, of which there were none
    guardian.suspend()
    node.kill()
    guardian.kill()
    node.wait()
    left = children(job)
    assert len(left) == 4
    assert folder.exists()
    (job.folder / "go").touch()
    job.run()
    assert [pid for pid in left if is_alive(pid)] == []
    assert children(job) == []
    assert not folder.exists()
    assert job.rows() == job.names(2)


def test_node_goes_on_without_its_guardian_and_gets_another(job, start_node):
    script = f"{sleeper(job)}\ndef run(mini_batch):\n    start(env={{}})\n    wait()\n    return mini_batch\n"
    job.files(2).split(script)
    node = start_node()
    wait_for(lambda: len(children(job)) == 2)
    first = wait_for(lambda: guardian_of(node))
    first.kill()
    first.wait(timeout=30)
    second = wait_for(lambda: guardian_of(node))
    assert second.pid != first.pid
    assert len(children(job)) == 2
    # It has been told of the workers that were there before it.
    node.kill()
    wait_for(lambda: not children(job))


def test_where_the_guardian_is_gone_the_node_cleans_up(tmp_path):
    tag = secrets.token_hex(8)
    folder = tmp_path / "node"
    folder.mkdir()
    keeper = Guardian(tag, str(folder))
    with subprocess.Popen(["sleep", "600"], env={TAG_VARIABLE: tag}) as tagged:
        keeper._popen.kill()
        keeper.close()
        assert tagged.wait() == -9
    assert not folder.exists()


@pytest.mark.parametrize("case", ["it is alive", "it ran elsewhere", "it has ended in order"])
def test_what_may_not_be_touched(tmp_path, case):
    store = Store(str(tmp_path))
    token = secrets.token_hex(8)
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    record = {
        "host": "elsewhere" if case == "it ran elsewhere" else socket.gethostname(),
        "pid": os.getpid() if case == "it is alive" else gone.pid,
        "token": token,
    }
    store.put(f"{names.ATTEMPTS}/0-1", json.dumps(record).encode())
    if case == "it has ended in order":
        store.put(f"{names.ENDS}/0-1", b"{}")
    folder = make_folder(token)
    try:
        with subprocess.Popen(["sleep", "600"], env={TAG_VARIABLE: token}) as tagged:
            remove_leftovers(store, Attempt(0, 2))
            alive = tagged.poll() is None
            tagged.kill()
        assert alive
        assert os.path.dirname(folder) == tempfile.gettempdir()
        assert os.path.exists(folder)
    finally:
        os.rmdir(folder)
