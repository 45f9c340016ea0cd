# SPDX-License-Identifier: Apache-2.0
"""One step of a run in a process of its own: ``fault_driver.py STEP FOLDER FAULTS [NODE]``.

The steps are split, node, reduce and redrive.

It calls what Airflow's operators and the command call. Before that it puts the faults in the place of ``os``
in every module of the engine, and shortens the engine's intervals, so that a run takes a second and not a
minute.
"""

from __future__ import annotations

import importlib
import json
import logging
import pkgutil
import signal
import sys
from pathlib import Path

import faulty_os

import airflow_parallelrun.engine
from airflow_parallelrun import filesystems
from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.engine import object_store, objects
from airflow_parallelrun.engine.node import Node
from airflow_parallelrun.engine.plan import read_plan
from airflow_parallelrun.engine.redrive import RedriveRequest, redrive
from airflow_parallelrun.engine.reduce import reduce
from airflow_parallelrun.engine.split import RunRequest, split
from airflow_parallelrun.exceptions import ParallelRunError, VerdictError

DONE, VERDICT, RETRYABLE, TERMINAL = 0, 3, 4, 5
PLAN = "plan.txt"


def modules():
    """Return every module of the engine."""
    package = airflow_parallelrun.engine
    return [
        importlib.import_module(f"{package.__name__}.{each.name}")
        for each in pkgutil.iter_modules(package.__path__)
    ]


def install(faults: faulty_os.Faults) -> None:
    """Give every module of the engine an operating system with faults."""
    faulty = faulty_os.FaultyOs(faults)
    for module in modules():
        if hasattr(module, "os"):
            module.os = faulty
        if module.__name__.rpartition(".")[2] in ("store", "ownership"):
            module.open = faulty.open_file


def install_in_objects(faults: faulty_os.Faults) -> None:
    """Have what the engine asks an object store meet faults, and the driver ask again at once."""
    classes = {
        "AzureObjects": (objects.AzureObjects, lambda args: args[1]),
        "_AzureUpload": (objects._AzureUpload, lambda args: args[0]._path),
        "ObjectStore": (object_store.ObjectStore, lambda args: args[0].path(args[1])),
    }
    for owner, calls in faulty_os.OBJECT_CALLS.items():
        kind, path = classes[owner]
        for name in calls:
            setattr(kind, name, faulty_os.faulty(faults, f"object {name}", getattr(kind, name), path))
    prepared = filesystems._prepared

    def impatient(fs):
        policy = prepared(fs).service_client._config.retry_policy
        policy.initial_backoff, policy.increment_base, policy.random_jitter_range = 0.02, 0, 0.01
        return fs

    filesystems._prepared = impatient


def hurry(intervals: dict[str, float]) -> None:
    """Set intervals: ``{"package.module.NAME": seconds}``, below airflow_parallelrun."""
    for name, seconds in intervals.items():
        module, _, constant = name.rpartition(".")
        target = importlib.import_module(f"airflow_parallelrun.{module}")
        if not hasattr(target, constant):
            raise AttributeError(f"there is no {name} any more")
        setattr(target, constant, seconds)


def do_split(folder: Path, settings: dict) -> None:
    """Split, and leave word where the plan is."""
    config = ParallelRunConfig(
        environment=Environment(),
        entry_script="fault_script.py",
        source_directory=str(folder / "source"),
        output_action="append_row",
        append_row_file_name="rows.txt",
        compute_target=ComputeTarget(),
        environment_variables=settings["variables"],
        **settings["config"],
    )
    request = RunRequest(
        config=config,
        inputs=(FileDataset.from_files(str(folder / "input")).as_mount(),),
        output=settings["output"],
        owner="faults/1",
        storage_root=settings["storage_root"],
    )
    (folder / PLAN).write_text(split(request).run_dir)


def do_redrive(run_dir: str) -> None:
    """Ask for a redrive with everything as it was."""
    plan = read_plan(run_dir)
    redrive(run_dir, RedriveRequest("faults/2", plan.config, tuple(plan.arguments), plan.models_root))


def main(step: str, folder: Path, faults: str, index: int) -> int:
    """Do one step; the exit status says what kind of error there was."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    logging.getLogger("azure").setLevel("WARNING")  # it tells of each request
    settings = json.loads((folder / "settings.json").read_bytes())
    hurry(settings["intervals"])
    loaded = faulty_os.load(faults, str(folder / "fired"))
    install(loaded)
    if filesystems.is_remote(settings["output"]):
        install_in_objects(loaded)
    try:
        if step == "split":
            do_split(folder, settings)
        elif step == "node":
            node = Node((folder / PLAN).read_text(), index)
            signal.signal(signal.SIGTERM, lambda _number, _frame: node.request_stop())
            node.run()
        elif step == "redrive":
            do_redrive((folder / PLAN).read_text())
        else:
            reduce((folder / PLAN).read_text())
    except VerdictError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return VERDICT
    except ParallelRunError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return RETRYABLE if error.retryable else TERMINAL
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int((*sys.argv[4:], 0)[0])))
