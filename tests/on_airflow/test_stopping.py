# SPDX-License-Identifier: Apache-2.0
"""Stops and kills, by REST and by signals: nothing of the run stays behind, and it ends right all the same.

Every worker is deaf to signals and has children of its own: in its group, in its group with an environment of
their own making, and in a session of their own. Where it can, a test freezes the workers before it stops
their node.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import psutil
import pytest
from harness import FILES, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harness import DagRun, Workspace

ITEMS = [str(number) for number in range(FILES)]
HELD = "3"
# Airflow waits 60 s ([workers] socket_cleanup_timeout) for whoever still has the task's stdout.
BELOW_AIRFLOWS_PATIENCE_S = 55.0
# What the workspace has of this process's environment, and a worker may have.
PASSED_ON = {"HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER"}
THREADS = {f"{library}_NUM_THREADS" for library in ("MKL", "NUMEXPR", "OMP", "OPENBLAS")}
THREADS |= {"TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"}
WORKERS_OWN = {"AZUREML_BI_OUTPUT_PATH", "PARALLELRUN_TAG", *THREADS}


@dataclass
class Stop:
    """What became of a run after something was done to it.

    :param before: what ran for it before
    :param doomed: what has to end by it alone
    :param at: when it was done
    :param ended_s: seconds until all of that had ended
    :param again_s: seconds until Airflow started the next try
    """

    run: DagRun
    before: list[psutil.Process] = field(default_factory=list)
    doomed: list[psutil.Process] = field(default_factory=list)
    at: float = 0.0
    ended_s: float = 0.0
    again_s: float = 0.0

    def watch_end(self) -> bool:
        """Tell whether all that is doomed has ended."""
        if self.doomed and not self.ended_s and not _alive(self.doomed):
            self.ended_s = time.time() - self.at
        return bool(self.ended_s)

    def watch_next_attempt(self) -> bool:
        """Tell whether the next attempt works."""
        if not self.again_s and "0-2" in self.run.attempts():
            start = self.run.instances()["predict.run[0]"]["start_date"]
            self.again_s = datetime.fromisoformat(start).timestamp() - self.at
        return bool(self.again_s)


def _alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _workers(run: DagRun) -> list[psutil.Process]:
    return _children(run, "bootstrap.py")


def _guardian(run: DagRun) -> psutil.Process:
    return eventually(lambda: _children(run, "guardian.py"), "a guardian")[0]


def _children(run: DagRun, script: str) -> list[psutil.Process]:
    return [child for child in _alive(run.node().children()) if script in " ".join(child.cmdline())]


def _holder(run: DagRun) -> psutil.Process:
    """Return the worker that has the item which is held."""
    lines = (run.folder / "calls").read_text().splitlines()
    return psutil.Process(next(int(line.split()[1]) for line in lines if line.split()[0] == HELD))


def _freeze_workers(run: DagRun) -> None:
    for worker in _workers(run):
        worker.suspend()


# What is done to the runs; each returns what has to end by it alone.


def terminate_the_task(stop: Stop) -> list[psutil.Process]:
    """Send SIGTERM to the task and nobody else."""
    _freeze_workers(stop.run)
    stop.run.node().send_signal(signal.SIGTERM)
    return stop.before


def kill_the_node(stop: Stop) -> list[psutil.Process]:
    """Leave workers behind that hang."""
    _freeze_workers(stop.run)
    stop.run.node().kill()
    return stop.before


def kill_the_guardian_and_then_the_node(stop: Stop) -> list[psutil.Process]:
    """Let the node go on without its guardian, until it has another one."""
    run = stop.run
    first = _guardian(run)
    first.kill()
    first.wait(timeout=BELOW_AIRFLOWS_PATIENCE_S)
    second = _guardian(run)
    run.untell(f"hold-{HELD}")
    run.is_called_with(*ITEMS)
    assert list(run.attempts()) == ["0-1"]
    stop.at = time.time()
    run.node().kill()
    return [*stop.before, second]


def kill_node_and_guardian(stop: Stop) -> list[psutil.Process]:
    """Leave nobody who could clean up; the children of the workers are left to the next attempt."""
    workers, guardian = _workers(stop.run), _guardian(stop.run)
    guardian.suspend()
    stop.run.node().kill()
    guardian.kill()
    return [*workers, guardian]


def kill_a_worker(stop: Stop) -> list[psutil.Process]:
    """Kill one worker in the middle of a mini-batch."""
    worker = _holder(stop.run)
    doomed = [worker, *worker.children()]
    assert len(doomed) == 4
    worker.kill()
    return doomed


def kill_the_supervisor(stop: Stop) -> list[psutil.Process]:
    """Kill the process of Airflow's that waits for the task."""
    stop.run.node().parent().kill()
    return stop.before


def mark_the_task_failed(stop: Stop) -> list[psutil.Process]:
    """Do what a person does who wants it to end."""
    _mark_failed(stop.run)
    return stop.before


def clear_the_task(stop: Stop) -> list[psutil.Process]:
    """Do what a person does who wants it to start anew."""
    stop.run.clear(("predict.run", 0))
    return stop.before


def _mark_failed(run: DagRun) -> None:
    path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/predict.run/0"
    run.client.request("PATCH", path, json={"new_state": "failed"})


TRIED_AGAIN = [
    kill_the_guardian_and_then_the_node,
    kill_node_and_guardian,
    kill_the_node,
    terminate_the_task,
]
DEEDS: list[Callable[[Stop], list[psutil.Process]]] = [
    *TRIED_AGAIN,
    kill_a_worker,
    kill_the_supervisor,
    mark_the_task_failed,
    clear_the_task,
]


@pytest.fixture(scope="module")
def held(workspace: Workspace) -> dict[str, Stop]:
    """Start a run for each deed; each is in the middle of a mini-batch."""
    stops = {}
    for deed in DEEDS:
        flags = [f"hold-{HELD}"]
        if deed is kill_the_guardian_and_then_the_node:
            flags.append("hold-5")
        if deed is not kill_node_and_guardian:
            flags.append("loose")
        stops[deed.__name__] = Stop(workspace.run("stopping", None, *flags))
    for name, stop in stops.items():
        both = name == kill_the_guardian_and_then_the_node.__name__
        stop.run.is_called_with(*(HELD, "5") if both else ITEMS)
        eventually(stop.run.committed, f"{name} has committed something")
        stop.before = [psutil.Process(pid) for pid in stop.run.processes()] + [stop.run.node()]
        # Two workers with their children, the guardian, the node.
        assert len(stop.before) == (8 if name == kill_node_and_guardian.__name__ else 10), stop.before
    return stops


@pytest.fixture(scope="module")
def stops(held: dict[str, Stop]) -> dict[str, Stop]:
    """Do all deeds, and wait until nothing is left of what has to end by them."""
    for deed in DEEDS:
        stop = held[deed.__name__]
        stop.at = time.time()
        stop.doomed = deed(stop)
        for earlier in held.values():
            earlier.watch_end()
    _wait_for(held, Stop.watch_end, "is still alive")
    again = {deed.__name__: held[deed.__name__] for deed in (*TRIED_AGAIN, clear_the_task)}
    _wait_for(again, Stop.watch_next_attempt, "has no next attempt")
    for name, stop in held.items():
        attempt = f", the next try started after {stop.again_s:.1f} s" if stop.again_s else ""
        print(f"{name}: all ended after {stop.ended_s:.1f} s{attempt}")
        if name != clear_the_task.__name__:
            for flag in stop.run.folder.glob("hold-*"):
                flag.unlink()
    return held


def _wait_for(stops: dict[str, Stop], watch: Callable[[Stop], bool], complaint: str) -> None:
    deadline = time.monotonic() + BELOW_AIRFLOWS_PATIENCE_S
    while waiting := [name for name, stop in stops.items() if not watch(stop)]:
        assert time.monotonic() < deadline, f"{complaint}: {waiting}"
        time.sleep(0.1)


def _check_rows(run: DagRun) -> None:
    """Check that every row is there once, and that nothing was run again that was committed."""
    assert run.rows() == ITEMS
    calls = run.calls()
    assert set(calls) == set(ITEMS)
    assert {item: calls[item] for item in ITEMS if int(item) in run.committed()} == {
        item: 1 for item in ITEMS if int(item) in run.committed()
    }


def _check_that_nothing_is_left(stop: Stop) -> None:
    assert _alive(stop.before) == []
    assert stop.run.processes() == {}


def test_nothing_of_airflow_reaches_a_worker_or_the_guardian(held: dict[str, Stop]) -> None:
    run = held["kill_the_node"].run
    guardian = _guardian(run)
    assert guardian.environ() == {}
    assert {fd: link.partition("[")[0] for fd, link in _descriptors(guardian).items()} == {
        0: "pipe:",
        1: "/dev/null",
        2: "/dev/null",
    }
    workers = _workers(run)
    assert len(workers) == 2
    for worker in workers:
        variables = worker.environ()
        assert variables.pop("GREETING") == "hello"
        # Python sets LC_CTYPE where no other variable chooses a language.
        assert set(variables) - {"LC_CTYPE"} == WORKERS_OWN | (PASSED_ON & set(os.environ))
        links = _descriptors(worker)
        stdout, stderr = links.pop(1), links.pop(2)
        assert links.pop(0) == "/dev/null"
        assert stdout.startswith(f"{run.output}/logs/user/stdout/0-1/process00")
        assert stderr.startswith(f"{run.output}/logs/user/stderr/0-1/process00")
        # Without its own socket, to the node, it would not work: another one would be Airflow's.
        plan = {f"{run.run_dir}/mini_batches.{ending}" for ending in ("index", "jsonl")}
        assert plan < set(links.values())
        page, segment, channel = sorted(set(links.values()) - plan)
        assert page.startswith(f"{run.run_dir}/pages/0-1-")
        assert segment.startswith(f"{run.run_dir}/segments/0-1-")
        assert channel.startswith("socket:")


def _descriptors(process: psutil.Process) -> dict[int, str]:
    folder = f"/proc/{process.pid}/fd"
    return {int(fd): os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}


@pytest.mark.parametrize("name", [deed.__name__ for deed in TRIED_AGAIN])
def test_a_node_that_is_stopped_from_outside_is_tried_again(stops: dict[str, Stop], name: str) -> None:
    stop = stops[name]
    states = stop.run.ends_as("success")
    assert set(states.values()) == {"success"}
    assert [(number, state) for number, state in _tries(stop.run)] == [(1, "failed"), (2, "success")]
    assert set(stop.run.attempts()) == {"0-1", "0-2"}
    _check_rows(stop.run)
    _check_that_nothing_is_left(stop)


def _tries(run: DagRun) -> list[tuple[int, str]]:
    path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/predict.run/0/tries"
    found = run.client.request("GET", path)["task_instances"]
    return sorted((each["try_number"], each["state"]) for each in found)


def test_a_worker_that_is_killed_costs_a_try_of_its_mini_batch_and_no_more(stops: dict[str, Stop]) -> None:
    stop = stops["kill_a_worker"]
    stop.run.ends_as("success")
    assert _tries(stop.run) == [(1, "success")]
    assert set(stop.run.attempts()) == {"0-1"}
    assert stop.run.rows() == ITEMS
    assert stop.run.calls()[HELD] == 2
    log = stop.run.log("predict.run[0]")
    assert re.search(rf"ended by SIGKILL, as the kernel does .* in mini-batch {HELD}, try 1", log)
    _check_that_nothing_is_left(stop)


def test_a_node_without_a_supervisor_stops_and_can_be_cleared(stops: dict[str, Stop]) -> None:
    stop = stops["kill_the_supervisor"]
    run = stop.run
    end = (run.run_dir / "ends" / "0-1").read_text()
    assert "node 0 has lost its supervisor and has stopped" in end
    # Airflow finds out by itself, but not before [scheduler] task_instance_heartbeat_timeout, 5 minutes.
    assert run.states()["predict.run[0]"] == "running"
    _mark_failed(run)
    run.ends_as("failed")
    run.clear(("predict.run", 0), downstream=True)
    run.ends_as("success")
    _check_rows(run)
    _check_that_nothing_is_left(stop)


def test_a_node_that_a_person_marks_failed_ends_and_can_be_cleared(stops: dict[str, Stop]) -> None:
    stop = stops["mark_the_task_failed"]
    run = stop.run
    states = run.ends_as("failed")
    assert states["predict.run[0]"] == "failed"
    assert states["predict.reduce"] == "failed"
    _check_that_nothing_is_left(stop)
    run.clear(("predict.run", 0), downstream=True)
    run.ends_as("success")
    _check_rows(run)
    _check_that_nothing_is_left(stop)


def test_a_node_that_is_cleared_starts_anew_and_ends_with_its_run(stops: dict[str, Stop]) -> None:
    stop = stops["clear_the_task"]
    run = stop.run
    assert run.states()["predict.run[0]"] == "running"
    eventually(lambda: run.calls()[HELD] == 2, "the second attempt is where the first was")
    again = Stop(run, [psutil.Process(pid) for pid in run.processes()] + [run.node("0-2")])
    again.doomed, again.at = again.before, time.time()
    states = run.mark_failed()
    eventually(again.watch_end, "the end of everything", BELOW_AIRFLOWS_PATIENCE_S)
    print(f"mark the run failed: all ended after {again.ended_s:.1f} s")
    assert states["predict.run[0]"] == "failed"
    calls = run.calls()
    assert [calls[item] for item in ITEMS if int(item) in run.committed()] == [1] * len(run.committed())
    _check_that_nothing_is_left(stop)
    _check_that_nothing_is_left(again)
