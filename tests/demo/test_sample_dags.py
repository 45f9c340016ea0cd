# SPDX-License-Identifier: Apache-2.0
"""The smaller example DAGs on a real Airflow: a table, and partition keys of files and of a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from demo.local_airflow import LocalAirflow
from demo.samples import BRANDS, SOUNDS, STORES, WEEKS, SampleData, iris, sales

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).resolve().parents[2]
STEPS = {
    "iris_batch_inference": "example-iris",
    "partition_per_folder": "summarize-file-size",
    "partition_per_column": "summarize-revenue",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """Make the data and start Airflow, once for this file; run a DAG and return what reduce returned."""
    root = tmp_path_factory.mktemp("samples")
    SampleData(root).make()
    environment = {"PARALLELRUN_DEMO_DATA": str(root), "PARALLELRUN_MODELS_ROOT": str(root / "models")}
    airflow = LocalAirflow(root / "airflow", ROOT / "dags", environment=environment)

    def run_dag(dag_id: str, conf: dict[str, Any] | None = None) -> dict[str, Any]:
        run_id = airflow.client.trigger(dag_id, conf or {})
        assert airflow.client.wait(dag_id, run_id, timeout_s=120)["state"] == "success"
        result: dict[str, Any] = airflow.client.xcom(dag_id, run_id, f"{STEPS[dag_id]}.reduce")
        return result

    try:
        airflow.start(list(STEPS))
        yield run_dag
    finally:
        airflow.stop()


def test_irises(run: Callable[..., dict[str, Any]]) -> None:
    result = run("iris_batch_inference")
    assert result["counts"]["mini_batches"] == 5
    assert result["counts"]["items"] == result["counts"]["rows"] == 150
    found = pd.read_csv(result["output_file"], delimiter=" ", header=None)
    known = iris()
    found.columns = known.columns
    pd.testing.assert_frame_equal(found.iloc[:, :4], known.iloc[:, :4])
    assert (found["variety"] == known["variety"]).mean() > 0.9

    # The same table in rows; "iris_param" is a path like any other in the form.
    again = run("iris_batch_inference", {"size_param": "60rows"})
    assert again["counts"]["mini_batches"] == 3
    assert Path(again["output_file"]).read_bytes() == Path(result["output_file"]).read_bytes()


def test_a_mini_batch_for_each_user_and_genre(run: Callable[..., dict[str, Any]]) -> None:
    result = run("partition_per_folder")
    assert result["counts"]["mini_batches"] == 5
    assert result["counts"]["rows"] == 6
    columns = ["name", "size", "share", "user", "genres", "total"]
    found = pd.read_csv(result["output_file"], header=None, names=columns)
    assert sorted(found["user"] + "/" + found["genres"]) == sorted(
        f"{name.split('/')[0]}/{name.split('/')[2]}" for name in SOUNDS
    )
    pianos = found[(found["user"] == "user4") & (found["genres"] == "piano")]
    assert set(pianos["total"]) == {5000 + 6000}
    assert pianos["share"].sum() == pytest.approx(1)


def test_a_mini_batch_for_each_store_and_brand(run: Callable[..., dict[str, Any]]) -> None:
    result = run("partition_per_column")
    assert result["counts"]["mini_batches"] == len(STORES) * len(BRANDS)
    found = pd.read_csv(result["output_file"], delimiter=" ", header=None)
    assert found.shape == (len(STORES) * len(BRANDS) * WEEKS, 19)
    table = sales()
    names = [name for name in table.columns if name not in ("Store", "Brand")]
    found.columns = pd.Index([*names, "Store", "Brand", "total_income"])
    expected = table.assign(total_income=table.groupby(["Store", "Brand"])["INCOME"].transform("sum"))
    pd.testing.assert_frame_equal(
        found.sort_values(["Store", "Brand", "WeekStarting"], ignore_index=True)[[*expected.columns]],
        expected.sort_values(["Store", "Brand", "WeekStarting"], ignore_index=True),
    )
