# SPDX-License-Identifier: Apache-2.0
"""``python -m demo``: real digits through a real Airflow.

``run azure`` does the same from and to Azurite. ``up`` starts the same Airflow and leaves it running, and
``down`` stops it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from rich.console import Console

from demo.airflow_client import AirflowApiError
from demo.azurite import AzuriteError, DemoStore
from demo.digits import IMAGES, MODEL_NAME, DemoData
from demo.local_airflow import LocalAirflow, LocalAirflowError
from demo.progress import display_for, follow
from demo.report import Predictions, cause_of_failure, seconds_of_run
from demo.samples import SampleData

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from demo.progress import Outcome

ROOT = Path(__file__).resolve().parent.parent
DAG_ID = "mnist_batch_inference"
STEP = "predict-digits-mnist"


class DemoError(RuntimeError):
    """A part of the demo failed; the message is the cause."""


@dataclass(frozen=True)
class Result:
    """A run that succeeded."""

    outcome: Outcome
    counts: dict[str, int]
    output_file: str
    predictions: Predictions


class Demo:
    """The steps of the demo, and what they print.

    :param store: where images are read from and results are written to; None for folders of this machine
    """

    def __init__(self, console: Console, root: Path, store: DemoStore | None = None) -> None:
        self.console = console
        self.store = store
        self.data = DemoData(root)
        self.airflow = LocalAirflow(
            root / "airflow",
            ROOT / "dags",
            environment={
                "PARALLELRUN_DEMO_DATA": str(root),
                "PARALLELRUN_MODELS_ROOT": str(self.data.models),
                **(store.environment if store else {}),
            },
        )

    def run(self) -> None:
        """Run all steps: data, model, Airflow, all images, one image."""
        started = time.monotonic()
        self.prepare()
        if self.store:
            self.upload(self.store)
        try:
            self.start()
            setup_s = time.monotonic() - started
            self.say("Run 1", f"all {IMAGES} images, mini-batches of 5, 2 nodes with 2 processes each")
            self.show_result(self.submit("all", self.places("mnist")), setup_s)
            image = f"{IMAGES - 1:04d}.png"
            self.say("Run 2", f"the same DAG, triggered with other parameters: only {image}, 1 process")
            conf = {**self.places(f"mnist/{image}"), "batch_size_param": "1", "process_count_param": 1}
            self.show_single(self.submit("one", conf))
        finally:
            self.airflow.stop()
        self.say("Stopped", f"everything, after {time.monotonic() - started:.0f} s")

    def up(self) -> None:
        """Start Airflow and leave it running."""
        if self.airflow.is_running():
            self.say("Airflow", "is running already")
        else:
            self.prepare()
            self.start(detached=True)
        dag = f"{self.airflow.url}/dags/{DAG_ID}"
        self.say("Log in", f"{dag}\n{'':11}as {self.airflow.user}, password {self.airflow.password}")
        self.say("Stop it", "make down")

    def down(self) -> None:
        """Stop what ``up`` left running."""
        self.say("Airflow", "stopped" if self.airflow.stop() else "was not running")

    def say(self, what: str, text: str) -> None:
        """Print one step."""
        self.console.print(f"[bold]{what:10}[/bold] {text}", highlight=False, soft_wrap=True)

    def prepare(self) -> None:
        """Make the images and the model, unless an earlier run made them."""
        made = "there already" if self.data.has_images() else self.make("digits", "images")
        self.say("Images", f"{IMAGES} handwritten digits in {_short(self.data.images)} ({made})")
        made = "there already" if self.data.model() else self.make("digits", "model")
        self.say("Model", f"{MODEL_NAME}, trained on {1797 - IMAGES} other digits ({made})")
        made = "there already" if SampleData(self.data.root).is_made() else self.make("samples")
        self.say("Samples", f"irises, sounds and sales, for the other DAGs ({made})")

    def upload(self, store: DemoStore) -> None:
        """Put the images into the store."""
        started = time.monotonic()
        count = store.upload(self.data.images, "mnist")
        put = f"put there in {time.monotonic() - started:.0f} s" if count else "there already"
        self.say(
            "Storage", f"Azurite, in {_short(store.folder)}; the images are at {store.url('mnist')} ({put})"
        )

    def places(self, images: str) -> dict[str, str]:
        """Return the parameters that say where images and results are."""
        if self.store:
            return {"mnist_param": self.store.url(images), "results_param": self.store.url("inferences")}
        return {"mnist_param": str(self.data.root / images)}

    def make(self, module: str, *what: str) -> str:
        """Make one part of the data in a process of its own, and say how long it took."""
        started = time.monotonic()
        argv = [sys.executable, "-m", f"demo.{module}", str(self.data.root), *what]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise DemoError(f"Making the {' '.join(what) or module} failed.\n{done.stderr.strip()}")
        return f"made in {time.monotonic() - started:.0f} s"

    def start(self, *, detached: bool = False) -> None:
        """Start Airflow and wait for the DAG."""
        started = time.monotonic()
        if self.airflow.is_running():
            self.say("Airflow", "an earlier one is still running; stopping it")
        with self.console.status("Airflow is starting …"):
            client = self.airflow.start([DAG_ID], detached=detached)
        for run in client.unfinished_runs(DAG_ID):
            # Left by a demo that was killed; it would take the processors from this one.
            client.mark_dag_run(DAG_ID, run["dag_run_id"], "failed")
        self.say("Airflow", f"{self.airflow.url} (ready in {time.monotonic() - started:.0f} s)")

    def submit(self, name: str, conf: dict[str, Any]) -> Result:
        """Run the DAG and follow it to its end.

        :raises DemoError: with the task's exception when it failed.
        """
        client = self.airflow.client
        run_id = client.trigger(DAG_ID, conf, run_id=f"demo_{datetime.now(UTC):%Y%m%dT%H%M%S}_{name}")
        try:
            outcome = follow(self.airflow, DAG_ID, run_id, STEP, display_for(self.console))
        except BaseException:
            # Otherwise the next start of Airflow would carry on with it.
            with suppress(httpx.HTTPError, AirflowApiError):
                client.mark_dag_run(DAG_ID, run_id, "failed")
            raise
        if outcome.run["state"] != "success":
            raise DemoError(cause_of_failure(client, outcome))
        job = client.xcom(DAG_ID, run_id, f"{STEP}.reduce")
        output_file = str(job["output_file"])
        text = self.store.read(output_file) if self.store else Path(output_file).read_text()
        return Result(outcome, job["counts"], output_file, Predictions.of(text))

    def show_result(self, result: Result, setup_s: float) -> None:
        """Print rows, counts, accuracy, duration and where the file is."""
        labels, counts = self.data.read_labels(), result.counts
        self.console.print(result.predictions.table(first=10))
        self.say(
            "Counts",
            f"{counts['rows']} rows; {counts['items_succeeded']} of {counts['items']} images in "
            f"{counts['mini_batches']} mini-batches succeeded, {counts['items_failed']} failed",
        )
        self.say("Accuracy", f"{result.predictions.accuracy(labels):.1%} agree with the known labels")
        inference_s, loading_s = result.outcome.totals.seconds, result.outcome.totals.first_init_s or 0
        overhead_s = seconds_of_run(result.outcome) - inference_s
        self.say(
            "Duration",
            f"set-up {setup_s:.1f} s, Airflow overhead {overhead_s:.1f} s, inference {inference_s:.1f} s "
            f"({loading_s:.1f} s of it to load TensorFlow and the model)",
        )
        self.say("Output", _short(result.output_file))

    def show_single(self, result: Result) -> None:
        """Print the one row and where the file is."""
        (name, digit), labels = result.predictions.rows[0], self.data.read_labels()
        verdict = "right" if labels[name] == digit else f"wrong, it is {labels[name]}"
        self.say("Row", f"{name}: {digit} ({verdict})")
        self.say("Output", _short(result.output_file))


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands and return the exit status."""
    commands: dict[tuple[str, ...], Callable[[Demo], None]] = {
        (): Demo.run,
        ("run",): Demo.run,
        ("run", "local"): Demo.run,
        ("run", "azure"): Demo.run,
        ("up",): Demo.up,
        ("down",): Demo.down,
    }
    command = commands.get(tuple(arguments))
    if command is None:
        print("usage: python -m demo [run [local|azure] | up | down]", file=sys.stderr)
        return 2
    root = Path(os.environ.get("PARALLELRUN_DEMO_DATA") or ROOT / ".demo").resolve()
    try:
        with DemoStore(root / "azurite") if "azure" in arguments else nullcontext() as store:
            command(Demo(Console(), root, store))
    except (DemoError, AzuriteError, LocalAirflowError, AirflowApiError, httpx.HTTPError, OSError) as error:
        print(f"The demo failed. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; everything is stopped.", file=sys.stderr)
        return 130
    return 0


def _short(place: Path | str) -> str:
    path = Path(place)
    if "://" in str(place):
        return str(place)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
