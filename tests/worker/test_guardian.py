# SPDX-License-Identifier: Apache-2.0
"""The guardian: when the node is gone, so is everything that it started, and nothing else."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time

import pytest

from airflow_parallelrun.worker import guardian
from airflow_parallelrun.worker.guardian import TAG_VARIABLE, kill_members, members


@pytest.fixture
def tag():
    return secrets.token_hex(8)


@pytest.fixture
def sleeper():
    """Start sleeping processes; whatever becomes of the test, they end."""
    started = []

    def start(value=None, command=("sleep", "600"), **options):
        environment = {"PATH": os.environ["PATH"]}
        if value is not None:
            environment[TAG_VARIABLE] = value
        started.append(subprocess.Popen(command, env=environment, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def start_guardian():
    started = []

    def start(tag, folder):
        command = [sys.executable, "-I", "-S", guardian.__file__, tag, str(folder)]
        started.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, env={}, cwd="/", start_new_session=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.stdin.close()
        process.wait()


def wait_until(condition):
    """Wait for something that happens soon."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def alive(process):
    return process.poll() is None


def test_who_carries_the_tag(tag, sleeper):
    exact, below = sleeper(tag), sleeper(f"{tag}.7")
    sleeper(f"{tag}7"), sleeper(f"x{tag}"), sleeper()
    wait_until(lambda: {exact.pid, below.pid} <= set(members(tag)))
    assert sorted(members(tag)) == sorted([exact.pid, below.pid])
    assert members(f"{tag}.7") == [below.pid]


def test_killing_one_process_leaves_the_nodes_others(tag, sleeper):
    one, ten, foreign = sleeper(f"{tag}.1"), sleeper(f"{tag}.10"), sleeper()
    wait_until(lambda: len(members(tag)) == 2)
    assert kill_members(f"{tag}.1") == 1
    assert one.wait() == -signal.SIGKILL
    assert alive(ten)
    assert alive(foreign)


def test_nothing_to_kill(tag):
    assert kill_members(tag) == 0


def test_one_that_carries_the_tag_itself_does_not_kill_itself(tag):
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(guardian.__file__)!r}); import guardian\n"
        f"assert guardian.kill_members({tag!r}) == 0; print('alive')"
    )
    environment = {TAG_VARIABLE: tag}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "alive\n"


def test_processes_that_fork_while_they_are_killed_are_all_found(tag, sleeper):
    script = "for i in 1 2 3 4 5 6 7 8; do (sleep 600 & exec setsid sleep 600) & done; wait"
    sleeper(tag, ["sh", "-c", script])
    wait_until(lambda: len(members(tag)) > 3)
    kill_members(tag)
    assert members(tag) == []


def test_who_lives_in_a_session(tag, sleeper):
    leader = sleeper(command=["sh", "-c", "sleep 600 & sleep 600"], start_new_session=True)
    foreign = sleeper(start_new_session=True)
    wait_until(lambda: len(members(tag, {leader.pid})) == 3)
    assert leader.pid in members(tag, {leader.pid})
    assert kill_members(tag, {leader.pid}) == 3
    # The leader is dead and not collected.
    assert members(tag, {leader.pid}) == []
    assert alive(foreign)


def test_end_of_file_ends_the_sessions_that_it_was_told_of(tag, sleeper, start_guardian, tmp_path):
    watched, released = (sleeper(start_new_session=True) for _ in range(2))
    keeper = start_guardian(tag, tmp_path / "gone")
    keeper.stdin.write(f"{watched.pid}\n{released.pid}\n-".encode())
    keeper.stdin.flush()
    keeper.stdin.write(f"{released.pid}\n".encode())
    keeper.stdin.close()
    assert keeper.wait() == 0
    assert watched.wait() == -signal.SIGKILL
    assert alive(released)


def test_end_of_file_ends_everything_and_removes_the_folder(tag, sleeper, start_guardian, tmp_path):
    folder = tmp_path / "node"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("x")
    own_session = sleeper(f"{tag}.0", ["setsid", "sleep", "600"])
    grandchildren = sleeper(f"{tag}.1", ["sh", "-c", "setsid sleep 600 & setsid sleep 600 & exit 0"])
    grandchildren.wait()
    foreign = sleeper("f" * 16)
    keeper = start_guardian(tag, folder)
    wait_until(lambda: len(members(tag)) == 3)
    assert alive(keeper)
    assert folder.exists()
    keeper.stdin.close()
    assert keeper.wait() == 0
    assert own_session.wait() == -signal.SIGKILL
    assert members(tag) == []
    assert not folder.exists()
    assert alive(foreign)


def test_it_cannot_be_interrupted_before_the_end(tag, sleeper, start_guardian, tmp_path):
    child = sleeper(tag)
    keeper = start_guardian(tag, tmp_path / "gone")
    caught = f"SigIgn:\t{1 << 0 | 1 << 1 | 1 << 14:016x}"

    def ignored():
        with open(f"/proc/{keeper.pid}/status") as file:
            for line in file:
                if line.startswith("SigIgn:"):
                    mask, wanted = int(line.split()[1], 16), int(caught.split()[1], 16)
                    return mask & wanted == wanted
        return False

    wait_until(ignored)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        keeper.send_signal(number)
    keeper.stdin.write(b"still here")
    keeper.stdin.flush()
    assert alive(keeper)
    assert alive(child)
    keeper.stdin.close()
    assert keeper.wait() == 0
    assert child.wait() == -signal.SIGKILL


def test_a_node_that_is_killed_is_noticed(tag, sleeper, tmp_path):
    folder = tmp_path / "node"
    folder.mkdir()
    child = sleeper(tag, start_new_session=True)
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-I', '-S', {guardian.__file__!r}, {tag!r}, {str(folder)!r}],"
        " stdin=subprocess.PIPE, start_new_session=True)\n"
        "print('started', flush=True); time.sleep(600)"
    )
    node = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert node.stdout.readline() == b"started\n"
    node.kill()
    node.wait()
    node.stdout.close()
    assert child.wait(timeout=30) == -signal.SIGKILL
    wait_until(lambda: not folder.exists())
