# SPDX-License-Identifier: Apache-2.0
"""The demo's DAG on a real Airflow, as a person meets it: triggered, looked at in a browser, and compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from storage_servers import azure_container

from demo.digits import IMAGES, DemoData
from demo.local_airflow import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).resolve().parents[2]
DAG_ID = "mnist_batch_inference"
STEP = "predict-digits-mnist"
CHROMIUM = shutil.which("chromium")


@dataclass
class Deployment:
    """An Airflow with the demo's DAG, its images and its model."""

    airflow: LocalAirflow
    data: DemoData

    @cached_property
    def everything(self) -> dict[str, Any]:
        """What reduce returned of a run over all images, on this machine's file system."""
        return self.run({})

    def run(self, conf: dict[str, Any]) -> dict[str, Any]:
        """Run the DAG to its end and return what reduce returned."""
        client = self.airflow.client
        run_id = client.trigger(DAG_ID, conf)
        assert client.wait(DAG_ID, run_id, timeout_s=120)["state"] == "success"
        result: dict[str, Any] = client.xcom(DAG_ID, run_id, f"{STEP}.reduce")
        return result


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Make images and model and start Airflow, once for this file."""
    root = tmp_path_factory.mktemp("mnist")
    for what in ("images", "model"):
        subprocess.run([sys.executable, "-m", "demo.digits", str(root), what], cwd=ROOT, check=True)
    data = DemoData(root)
    environment = {
        "PYTHONPATH": str(ROOT),
        "PARALLELRUN_DEMO_DATA": str(root),
        "PARALLELRUN_MODELS_ROOT": str(data.models),
    }
    airflow = LocalAirflow(root / "airflow", ROOT / "dags", environment=environment)
    try:
        airflow.start([DAG_ID])
        yield Deployment(airflow, data)
    finally:
        airflow.stop()


def test_all_images_and_the_same_rows_from_the_command(deployment: Deployment, tmp_path: Path) -> None:
    result = deployment.everything
    assert result["counts"]["items_succeeded"] == IMAGES
    assert result["verdict"] == "succeeded"
    rows = Path(result["output_file"]).read_bytes()
    labels = deployment.data.read_labels()
    predicted = dict(line.split(": ") for line in rows.decode().splitlines())
    assert predicted.keys() == labels.keys()
    assert sum(predicted[name] == labels[name] for name in labels) > 0.93 * IMAGES

    command = [sys.executable, "-m", "airflow_parallelrun.cli", "run"]
    command += [str(ROOT / "dags" / "mnist" / "digit_identification.py")]
    command += ["--input", str(deployment.data.images), "--output", str(tmp_path / "output")]
    command += ["--mini-batch-size", "5", "--process-count-per-node", "2"]
    environment = {**os.environ, "PARALLELRUN_MODELS_ROOT": str(deployment.data.models)}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    own = (tmp_path / "output" / "parallel_run_step.txt").read_bytes()
    assert sorted(own.splitlines()) == sorted(rows.splitlines())


def test_one_image_by_other_parameters(deployment: Deployment) -> None:
    image = deployment.data.images / "0007.png"
    result = deployment.run({"mnist_param": str(image), "batch_size_param": "1", "process_count_param": 1})
    assert result["counts"]["mini_batches"] == 1
    assert Path(result["output_file"]).read_text().startswith("0007.png: ")


def test_from_and_to_a_store(deployment: Deployment, azurite: str) -> None:
    store = azure_container(azurite)
    names = [f"{number:04d}.png" for number in range(10)]
    for name in names:
        store.write(f"mnist/{name}", (deployment.data.images / name).read_bytes())
    connection = {"connection_id": "mnist_store", "conn_type": "wasb", "extra": json.dumps(store.options)}
    deployment.airflow.client.request("POST", "/connections", json=connection)
    url = f"abfs://mnist_store@{store.container}"
    places = {"mnist_param": f"{url}/mnist/*.png", "results_param": f"{url}/results"}
    result = deployment.run({**places, "process_count_param": 1})
    assert result["output_file"].startswith(f"{url}/results/")
    rows = store.read(result["output_file"].removeprefix(f"{url}/")).decode().splitlines()
    assert rows == Path(deployment.everything["output_file"]).read_text().splitlines()[: len(names)]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; make test installs it as root")
def test_the_trigger_form_shows_the_parameters(deployment: Deployment, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    airflow = deployment.airflow
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.goto(f"{airflow.url}/dags/{DAG_ID}")
        page.fill('input[name="username"]', airflow.user)
        page.fill('input[name="password"]', airflow.password)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Trigger").first.click(timeout=60_000)
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name=f"Parallel run: {STEP}").click(timeout=60_000)
        for name in ("mnist_param", "batch_size_param", "process_count_param"):
            expect(dialog.get_by_text(name, exact=False).first).to_be_visible(timeout=60_000)
        page.screenshot(path=tmp_path / "trigger.png")
        browser.close()
