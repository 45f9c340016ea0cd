# SPDX-License-Identifier: Apache-2.0
"""A real Airflow and its DAG runs as objects, for the tests in this folder."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

import airflow_parallelrun
from airflow_parallelrun.engine.journal import parse
from demo.airflow_client import AirflowApiError
from demo.local_airflow import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from demo.airflow_client import AirflowClient

DAGS = Path(__file__).parent / "dags"
FILES = 8
# Far above what anything here takes: a test that gets there has found a hang.
DEADLINE_S = 180.0

T = TypeVar("T")


def eventually(probe: Callable[[], T], what: str, timeout_s: float = DEADLINE_S) -> T:
    """Wait until the probe returns something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not in {timeout_s:.0f} s: {what}"
        time.sleep(0.1)
    return found


class Workspace:
    """An Airflow over the DAGs of this folder, with an input of ``FILES`` files named 0, 1 and so on.

    :param root: the folder that everything is in: Airflow's home, input, output, and what scripts leave
    :param environment: further settings of Airflow
    """

    def __init__(
        self, root: Path, environment: Mapping[str, str] | None = None, parallelism: int = 12
    ) -> None:
        self.root = root
        (root / "input").mkdir()
        for number in range(FILES):
            (root / "input" / str(number)).write_text(str(number))
        settings = {
            "PYTHONPATH": str(Path(airflow_parallelrun.__file__).parents[1]),
            "PARALLELRUN_TESTS_ROOT": str(root),
            **(environment or {}),
        }
        self.airflow = LocalAirflow(root / "home", DAGS, environment=settings, parallelism=parallelism)

    @property
    def client(self) -> AirflowClient:
        """The REST client, while all of Airflow runs: nothing shall wait for what has ended."""
        self.airflow.check_alive()
        return self.airflow.client

    def run(self, dag_id: str, conf: dict[str, Any] | None = None, *flags: str) -> DagRun:
        """Trigger a DAG run, whose script finds these flags in its folder from the start."""
        self.airflow.wait_for_dags([dag_id])
        run_id = f"{len(list((self.root / 'runs' / dag_id).glob('*')))}-{os.urandom(3).hex()}"
        run = DagRun(self, dag_id, run_id)
        run.folder.mkdir(parents=True)
        for flag in flags:
            run.tell(flag)
        self.client.trigger(dag_id, conf, run_id=run_id)
        return run


@dataclass(frozen=True)
class DagRun:
    """A DAG run whose step is called ``predict``."""

    workspace: Workspace
    dag_id: str
    run_id: str

    @property
    def client(self) -> AirflowClient:
        """The REST client."""
        return self.workspace.client

    # What Airflow says.

    def instances(self) -> dict[str, dict[str, Any]]:
        """Return the task instances; mapped ones as ``predict.run[0]``."""
        found = self.client.task_instances(self.dag_id, self.run_id)
        return {_label(item): item for item in found}

    def states(self) -> dict[str, str | None]:
        """Return the state of each task instance."""
        return {label: item["state"] for label, item in self.instances().items()}

    def waits_for(self, label: str, *states: str, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        """Wait until a task instance is in one of these states, and return it."""

        def reached() -> dict[str, Any] | None:
            instance = self.instances().get(label)
            return instance if instance and instance["state"] in states else None

        return eventually(reached, f"{label} of {self.dag_id} is {' or '.join(states)}", timeout_s)

    def ends_as(self, expected: str) -> dict[str, str | None]:
        """Wait for the end, check the run's state and return the tasks' states; else show the logs."""
        state = self.client.wait(self.dag_id, self.run_id, timeout_s=DEADLINE_S)["state"]
        found = self.states()
        assert state == expected, f"{self.dag_id} is {state}: {found}\n" + "\n".join(
            f"--- {label}\n{self.log(label)}" for label in found
        )
        return found

    def mark_failed(self) -> dict[str, str | None]:
        """Mark the run failed, wait for its end and return the tasks' states.

        The run's own state is Airflow's alone: a scheduler that looks just then finds all tasks ended, the
        last one skipped, and calls it a success.
        """
        self.client.mark_dag_run(self.dag_id, self.run_id, "failed")
        self.client.wait(self.dag_id, self.run_id, timeout_s=DEADLINE_S)
        return self.states()

    def log(self, label: str, try_number: int = 1) -> str:
        """Return the log of one try, one JSON text per line."""
        task_id, _, index = label.rstrip("]").partition("[")
        try:
            lines = self.client.logs(self.dag_id, self.run_id, task_id, int(index or -1), try_number)
        except AirflowApiError as error:
            return str(error)
        return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        """Return an XCom of a task that is not mapped."""
        return self.client.xcom(self.dag_id, self.run_id, task_id, key)

    def clear(self, *tasks: str | tuple[str, int], downstream: bool = False) -> None:
        """Clear tasks or single map indices."""
        self.client.clear(self.dag_id, self.run_id, list(tasks), downstream=downstream)

    # What the script is told, and what it says.

    @property
    def folder(self) -> Path:
        """What the script reads its orders from and leaves its calls in."""
        return self.workspace.root / "runs" / self.dag_id / self.run_id

    def tell(self, flag: str) -> None:
        """Give the script a flag, such as ``hold-3``."""
        (self.folder / flag).touch()

    def untell(self, flag: str) -> None:
        """Take a flag back."""
        (self.folder / flag).unlink()

    def calls(self) -> Counter[str]:
        """Return how often the script was called with each item."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(line.split()[0] for line in lines)

    def is_called_with(self, *items: str) -> None:
        """Wait until the script has been called with each of these items."""
        eventually(lambda: set(items) <= set(self.calls()), f"calls with {items}")

    # What is on the disk.

    @property
    def output(self) -> Path:
        """The output folder."""
        return self.workspace.root / "out" / self.dag_id / self.run_id

    def rows(self) -> list[str]:
        """Return the rows of the output file, sorted."""
        return sorted((self.output / "rows.txt").read_text().splitlines())

    def result(self) -> dict[str, Any]:
        """Return ``job_result.json``."""
        result: dict[str, Any] = json.loads((self.output / "job_result.json").read_text())
        return result

    @property
    def run_dir(self) -> Path:
        """The run directory of the plan that split pushed."""
        return Path(self.xcom("predict.split", "plan")["run_dir"])

    def attempts(self) -> dict[str, dict[str, Any]]:
        """Return the records of the attempts, by name: ``0-1`` is the first of node 0."""
        # Names that begin with a dot are being written.
        found = (self.run_dir / "attempts").glob("[!.]*")
        return {path.name: json.loads(path.read_text()) for path in found}

    def committed(self, attempt: str = "0-1") -> set[int]:
        """Return the mini-batches that an attempt has journalled."""
        journal = self.run_dir / "journal" / f"{attempt}-0.jsonl"
        entries = map(parse, journal.read_bytes().splitlines(keepends=True)[1:])
        return {line.ordinal for entry in entries for line in entry.lines()}

    # What runs.

    def node(self, attempt: str = "0-1") -> psutil.Process:
        """Return the process of an attempt, which is the task's own."""
        return psutil.Process(
            eventually(lambda: self.attempts().get(attempt), f"attempt {attempt} has started")["pid"]
        )

    def processes(self) -> dict[int, str]:
        """Return what runs for this run beside the tasks: workers, what they started, and guardians.

        They are known by their parent; and by the run's id or an attempt's token in their environment or
        command line.
        """
        attempts = self.attempts().values()
        marks = [self.run_id.encode(), *(attempt["token"].encode() for attempt in attempts)]
        found: dict[int, str] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                folder = Path("/proc", str(process.pid))
                text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
                if any(mark in text for mark in marks) and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = " ".join(process.cmdline())
        for attempt in attempts:
            for child in _children(attempt["pid"]):
                with contextlib.suppress(psutil.Error):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        found[child.pid] = " ".join(child.cmdline())
        return found


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _label(instance: dict[str, Any]) -> str:
    index = instance["map_index"]
    return str(instance["task_id"]) + (f"[{index}]" if index >= 0 else "")
