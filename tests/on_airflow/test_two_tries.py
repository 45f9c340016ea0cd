# SPDX-License-Identifier: Apache-2.0
"""R2: two tries of one node alive at once, and parts of Airflow that die or are away meanwhile.

The figures that these tests print are in docs/reliability.md.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from harness import DagRun, Workspace, eventually

from airflow_parallelrun.engine.journal import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_parallelrun.engine.journal import Line

pytestmark = pytest.mark.long

NODES = PROCESSES = 2
ITEMS = 200
# Airflow's own are 300 s, 10 s, 300 s and 5 s.
IMPATIENT = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
}
# The default of [scheduler] scheduler_health_check_threshold: when a scheduler has not been heard of for so
# long, its tasks are orphans.
ORPHANED_AFTER_S = 30
AWAY_S = 60
# So many that the nodes are busy for as long as the API server is away, at 0.1 s for each.
MANY_ITEMS = 6000

STOPPED_FOR_SUCCESSOR = "was started again elsewhere, and this attempt has stopped"


class Run(DagRun):
    """A run of two nodes with two processes each, whose storage can be read while Airflow is away."""

    @classmethod
    def starts(cls, workspace: Workspace, dag_id: str = "probe") -> Run:
        """Trigger it; every process stops in its first item."""
        files = workspace.root / "many"
        conf = {"files": str(files), "nodes": NODES, "processes": PROCESSES} if dag_id == "probe" else {}
        run = workspace.run(dag_id, conf, "slow", "hold")
        return cls(run.workspace, run.dag_id, run.run_id)

    @cached_property
    def run_dir(self) -> Path:
        """Where the plan is; split runs once in these tests."""
        self.waits_for("predict.split", "success")
        return super().run_dir

    def lines(self, attempt: str) -> list[Line]:
        """Return what an attempt has journalled."""
        path = self.run_dir / "journal" / f"{attempt}-0.jsonl"
        text = path.read_bytes() if path.exists() else b""
        whole = [line for line in text.splitlines(keepends=True)[1:] if line.endswith(b"\n")]
        return [line for entry in map(parse, whole) for line in entry.lines()]

    def end(self, attempt: str) -> dict[str, Any]:
        """Wait until an attempt has ended, and return its last words."""
        path = self.run_dir / "ends" / attempt
        eventually(path.exists, f"{attempt} has ended")
        return dict(json.loads(path.read_text()))

    def done(self) -> list[int]:
        """Count the mini-batches that the first attempts have committed, by node."""
        return [len(self.lines(f"{node}-1")) for node in range(NODES)]

    def works_a_little(self, more: int = 4) -> None:
        """Let each node commit some mini-batches, and stop in the middle of the next ones."""
        eventually(self.is_held, "every process is in its first item")
        goal = [done + more for done in self.done()]
        self.untell("hold")
        eventually(lambda: all(map(int.__ge__, self.done(), goal)), "both nodes work")
        self.tell("hold")
        eventually(self.is_held, "every process is in an item, and the rest is committed")

    def is_held(self) -> bool:
        """Tell whether every process waits in an item, and all others are committed."""
        path = self.folder / "held"
        held = {line.split()[0] for line in path.read_text().splitlines()} if path.exists() else set()
        in_flight = self.in_flight()
        return len(in_flight) == NODES * PROCESSES and in_flight <= held

    def in_flight(self) -> set[str]:
        """Return the items that the script has been called with and no first attempt has committed."""
        names = sorted(path.name for path in (self.workspace.root / "many").iterdir())
        committed = {names[line.ordinal] for node in range(NODES) for line in self.lines(f"{node}-1")}
        return set(self.calls()) - committed

    def tries(self) -> list[int]:
        """Return the number of the last try of each node."""
        instances = self.instances()
        return [instances[f"predict.run[{node}]"]["try_number"] for node in range(NODES)]

    def is_whole(self, in_flight: set[str], items: int = ITEMS) -> None:
        """Check the end: success, each row once, what was committed not called again, nothing left alive."""
        self.ends_as("success")
        names = sorted(path.name for path in (self.workspace.root / "many").iterdir())
        assert self.rows() == names
        assert len(names) == items
        result = self.result()
        counts = result["counts"]
        assert result["verdict"] == "succeeded"
        assert (counts["rows"], counts["succeeded"], counts["items_succeeded"]) == (items, items, items)
        calls = self.calls()
        assert set(calls) == set(names)
        twice = {item for item, count in calls.items() if count > 1}
        assert twice <= in_flight
        eventually(lambda: not self.processes(), "nothing of the run is alive")


class Family:
    """All processes of a node: Airflow's supervisor, the task itself, its workers and its guardian."""

    def __init__(self, run: Run, attempt: str = "0-1") -> None:
        self.node = run.node(attempt)
        self.supervisor = self.node.parent()
        assert "LocalExecutor" in " ".join(self.supervisor.cmdline())
        self._members = [self.supervisor, self.node, *self.node.children(recursive=True)]

    def lose_supervisor(self) -> None:
        """Kill the supervisor, and wait until it is gone."""
        self._members.remove(self.supervisor)
        self.supervisor.kill()
        eventually(lambda: not lives(self.supervisor), "the supervisor is gone")

    def freeze(self) -> None:
        """Stop them all, as a machine does that hangs."""
        for process in self._members:
            process.suspend()
        eventually(lambda: {each.status() for each in self._members} == {psutil.STATUS_STOPPED}, "frozen")

    def thaw(self) -> None:
        """Let those go on that are left."""
        for process in self._members:
            if lives(process):
                process.resume()

    def node_is_gone(self) -> bool:
        """Tell whether the task's process has ended."""
        return not lives(self.node)


def lives(process: psutil.Process) -> bool:
    """Tell whether a process has not ended; one that nobody collects lives no more."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Struck:
    """A run, and what it was like when something happened to it.

    :param committed: what the first attempts had committed, by node
    :param in_flight: what may be done again
    """

    run: Run
    families: list[Family]
    committed: list[list[dict[str, Any]]]
    in_flight: set[str]
    at: float

    @classmethod
    def now(cls, run: Run) -> Struck:
        """Take down what is."""
        families = [Family(run, f"{node}-1") for node in range(NODES)]
        committed = [run.lines(f"{node}-1") for node in range(NODES)]
        return cls(run, families, committed, run.in_flight(), time.time())

    def measured(self, what: str, path: str) -> None:
        """Print how long after the blow an object of the run directory was made."""
        print(f"\n{what}: {(self.run.run_dir / path).stat().st_mtime - self.at:.1f} s")


@contextmanager
def airflow(root: Path, items: int, environment: dict[str, str]) -> Iterator[Workspace]:
    """Start an Airflow with an input of so many files."""
    made = Workspace(root, environment, parallelism=14)
    (root / "many").mkdir()
    for number in range(items):
        (root / "many" / f"{number:04d}").touch()
    try:
        made.airflow.start()
        yield made
    finally:
        made.airflow.stop()


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Start an Airflow that gives up soon on tasks that it does not hear of."""
    with airflow(tmp_path_factory.mktemp("impatient"), ITEMS, IMPATIENT) as made:
        yield made


@pytest.fixture(scope="module")
def struck(impatient: Workspace) -> dict[str, Struck]:
    """Strike node 0 of four runs, so that all of them wait for Airflow's time-out together."""
    runs = {name: Run.starts(impatient) for name in ("lost", "orphan", "frozen", "late")}
    for run in runs.values():
        run.works_a_little()
    found = {name: Struck.now(runs[name]) for name in ("lost", "orphan", "frozen")}
    found["lost"].families[0].lose_supervisor()
    # In this order: to a process that is stopped the kernel sends SIGHUP when its supervisor dies.
    found["orphan"].families[0].lose_supervisor()
    found["orphan"].families[0].freeze()
    found["frozen"].families[0].freeze()
    runs["late"].untell("hold")
    found["late"] = frozen_before_a_commit(runs["late"])
    return found


def frozen_before_a_commit(run: Run) -> Struck:
    """Freeze node 0 of a run when it has results that it has not committed."""
    family = Family(run)
    while True:
        family.freeze()
        segments = (run.run_dir / "segments").glob("0-1-*")
        written = sum(path.stat().st_size for path in segments)
        journalled = sum(extent[2] for line in run.lines("0-1") for extent in line.extents)
        # Of each process the node may not have heard of one row; a row is five bytes.
        if written - journalled > PROCESSES * len("0000\n"):
            return Struck.now(run)
        family.thaw()
        time.sleep(0.1)


def test_a_node_that_has_lost_its_supervisor_ends_itself_and_is_tried_again(
    struck: dict[str, Struck],
) -> None:
    case = struck["lost"]
    run = case.run
    end = run.end("0-1")
    assert end["outcome"] == "interrupted"
    assert "node 0 has lost its supervisor and has stopped" in end["message"]
    eventually(case.families[0].node_is_gone, "the task's process has ended")
    assert run.lines("0-1") == case.committed[0]
    eventually(lambda: "0-2" in run.attempts(), "a second try")
    case.measured("supervisor killed: the node has ended after", "ends/0-1")
    case.measured("supervisor killed: the second try has started after", "attempts/0-2")
    run.untell("hold")
    run.is_whole(case.in_flight)
    assert run.tries() == [2, 1]


@pytest.mark.parametrize("name", ["orphan", "frozen"])
def test_a_frozen_node_that_goes_on_beside_its_second_try_stops(struck: dict[str, Struck], name: str) -> None:
    case = struck[name]
    run, family = case.run, case.families[0]
    eventually(lambda: "0-2" in run.attempts(), "a second try")
    assert not family.node_is_gone()
    family.thaw()
    end = run.end("0-1")
    assert end["outcome"] == "interrupted"
    assert STOPPED_FOR_SUCCESSOR in end["message"]
    eventually(family.node_is_gone, "the task's process has ended")
    assert run.lines("0-1") == case.committed[0]
    case.measured(f"{name}: the second try has started after", "attempts/0-2")
    run.untell("hold")
    run.is_whole(case.in_flight)
    assert run.tries() == [2, 1]
    if name == "frozen":  # the other has nobody left to send its log to
        assert STOPPED_FOR_SUCCESSOR in run.log("predict.run[0]", 1)


def test_a_frozen_node_that_commits_behind_the_seal_changes_nothing(struck: dict[str, Struck]) -> None:
    case = struck["late"]
    run, family = case.run, case.families[0]
    run.ends_as("success")
    assert run.lines("0-1") == case.committed[0]
    published, called = (run.result(), run.rows()), run.calls()
    family.thaw()
    assert STOPPED_FOR_SUCCESSOR in run.end("0-1")["message"]
    eventually(family.node_is_gone, "the task's process has ended")
    # What it had in hand when it was frozen: another round's seal has these lines, too.
    assert len(run.lines("0-1")) > len(case.committed[0])
    assert (run.result(), run.rows()) == published
    # Until the node stopped them its processes may have begun what waited in front of them.
    calls = run.calls()
    begun = calls - called
    assert begun.total() <= PROCESSES
    assert run.tries() == [2, 1]
    for tasks in ("predict.reduce", "predict.run"):
        run.clear(tasks, downstream=tasks == "predict.run")
        run.is_whole(case.in_flight | set(begun))
        assert run.calls() == calls


def test_a_scheduler_that_is_restarted_at_once_leaves_its_tasks_alone(impatient: Workspace) -> None:
    short, long = Run.starts(impatient), Run.starts(impatient)
    for run in (short, long):
        run.works_a_little()
    blow = {run: Struck.now(run) for run in (short, long)}
    impatient.airflow.kill("scheduler")
    short.works_a_little()  # without any scheduler
    impatient.airflow.restart("scheduler")
    short.untell("hold")
    short.is_whole(blow[short].in_flight)
    assert short.tries() == [1, 1]
    # What still runs when the old scheduler counts as lost is an orphan: both nodes are tried again.
    goes_on_after_a_second_try(long, blow[long])


def test_a_scheduler_that_is_restarted_late_tries_its_tasks_again(impatient: Workspace) -> None:
    run = Run.starts(impatient)
    run.works_a_little()
    impatient.airflow.kill("scheduler")
    time.sleep(ORPHANED_AFTER_S + 1)
    run.works_a_little()
    blow = Struck.now(run)
    impatient.airflow.restart("scheduler")
    goes_on_after_a_second_try(run, blow)


def goes_on_after_a_second_try(run: Run, blow: Struck) -> None:
    """Check that both nodes are tried again, that the first tries stop, and that the run becomes whole."""
    for node in range(NODES):
        end = run.end(f"{node}-1")
        assert end["outcome"] == "interrupted"
        blow.measured(f"scheduler killed: node {node} has ended after", f"ends/{node}-1")
        eventually(lambda node=node: f"{node}-2" in run.attempts(), "a second try")
        eventually(blow.families[node].node_is_gone, "the task's process has ended")
        assert run.lines(f"{node}-1") == blow.committed[node]
    run.untell("hold")
    run.is_whole(blow.in_flight)
    assert run.tries() == [2, 2]


@dataclass(frozen=True)
class Outage:
    """A run while the API server was away.

    :param pauses: the longest time without a commit, by node
    :param done_before: mini-batches that were committed when the server went, by node
    :param done_after: and when it came back
    """

    struck: Struck
    pauses: list[float]
    done_before: list[int]
    done_after: list[int]


@pytest.fixture(scope="module")
def outages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outage]]:
    """Take the API server away for a minute: from nodes whose supervisors wait for it, and from others."""
    patience = {"patient": 1000, "strict": 1}
    with ExitStack() as opened:
        runs = {}
        for name, heartbeats in patience.items():
            setting = {"AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": str(heartbeats)}
            made = opened.enter_context(airflow(tmp_path_factory.mktemp(name), MANY_ITEMS, setting))
            runs[name] = Run.starts(made, "outage")
        for run in runs.values():
            run.works_a_little()
            run.untell("hold")
        yield _watch_outage(runs)


def _watch_outage(runs: dict[str, Run]) -> dict[str, Outage]:
    struck, before = {}, {}
    for name, run in runs.items():
        run.workspace.airflow.kill("api-server", family=True)
        struck[name], before[name] = Struck.now(run), run.done()
    sizes = {name: [0] * NODES for name in runs}
    changed = {name: [time.monotonic()] * NODES for name in runs}
    pauses = {name: [0.0] * NODES for name in runs}
    until = time.monotonic() + AWAY_S
    while (now := time.monotonic()) < until:
        for name, run in runs.items():
            for node in range(NODES):
                size = (run.run_dir / "journal" / f"{node}-1-0.jsonl").stat().st_size
                if size != sizes[name][node]:
                    pauses[name][node] = max(pauses[name][node], now - changed[name][node])
                    sizes[name][node], changed[name][node] = size, now
        time.sleep(0.05)
    after = {name: run.done() for name, run in runs.items()}
    for name, run in runs.items():
        struck[name] = replace(struck[name], in_flight=struck[name].in_flight | run.in_flight())
        run.workspace.airflow.restart("api-server")
        run.untell("slow")
    return {name: Outage(struck[name], pauses[name], before[name], after[name]) for name in runs}


def test_nodes_go_on_while_the_api_server_is_away(outages: dict[str, Outage]) -> None:
    outage = outages["patient"]
    run = outage.struck.run
    run.is_whole(outage.struck.in_flight, MANY_ITEMS)
    more = [after - before for before, after in zip(outage.done_before, outage.done_after, strict=True)]
    print(f"\nserver away: {sum(more)} mini-batches in {AWAY_S} s; longest pauses {outage.pauses} s")
    assert min(more) > 0
    assert run.tries() == [1, 1]
    # Nobody waits for the server but the thread that shows the progress, which says so once.
    for node in range(NODES):
        log = run.log(f"predict.run[{node}]")
        assert log.count("progress cannot be reported") == 1
        shown = run.client.task_state(run.dag_id, run.run_id, "predict.run", node, "progress")
        assert shown["mini_batches_done"] == len(run.lines(f"{node}-1"))


def test_nodes_whose_supervisors_give_up_on_the_server_are_tried_again(outages: dict[str, Outage]) -> None:
    outage = outages["strict"]
    run = outage.struck.run
    run.is_whole(outage.struck.in_flight, MANY_ITEMS)
    print(f"\ntries of the nodes whose supervisors gave up: {run.tries()}")
    for node in range(NODES):
        outage.struck.measured(f"server away: node {node} has ended after", f"ends/{node}-1")
        assert "was asked to stop and has stopped" in run.end(f"{node}-1")["message"]
        assert outage.struck.families[node].node_is_gone()
    assert min(run.tries()) >= 2
