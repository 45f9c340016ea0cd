# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import airflow_parallelrun

_DAGS = [
    Path(__file__).parents[1] / "dags" / "mnist_batch_inference.py",
    Path(__file__).parent / "on_airflow" / "dags" / "parameters.py",
]

_HEAVY = ("adlfs", "fsspec", "numpy", "pandas", "pyarrow", "rich", "sklearn", "tensorflow")

_PROBE = """
import json, sys
before = set(sys.modules)
import airflow_parallelrun
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""

_PROBE_ALL = """
import json, sys
import airflow.sdk
airflow.sdk.DAG, airflow.sdk.BaseOperator, airflow.sdk.TaskGroup
before = set(sys.modules)
from airflow_parallelrun import *
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""

# What a DAG file of anybody else loads comes first.
_PROBE_DAG_FILE = """
import json, runpy, sys
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
from airflow.sdk import DAG, Asset, Param, TaskGroup, TriggerRule, task
with DAG("other", params={"number": Param(1)}):
    @task
    def other(): ...
    other()
before = set(sys.modules)
runpy.run_path(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""

# Airflow makes a new version of a DAG when this is another one.
_HASH = """
import json, sys
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
from airflow.dag_processing.dagbag import DagBag
from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization.serialized_objects import DagSerialization
dags = DagBag(sys.argv[1]).dags
hashes = {name: SerializedDagModel.hash(DagSerialization.to_dict(dag)) for name, dag in dags.items()}
print(json.dumps(hashes))
"""


def _run(code: str, *argv: str, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "PARALLELRUN_TESTS_ROOT": "/data", **environment},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()[-1]


def _probe(code: str, *argv: str) -> set[str]:
    return set(json.loads(_run(code, *argv)))


def test_the_public_list_is_sorted_and_every_name_is_there() -> None:
    assert airflow_parallelrun.__all__ == sorted(airflow_parallelrun.__all__)
    for name in airflow_parallelrun.__all__:
        assert getattr(airflow_parallelrun, name).__name__ == name
    assert set(airflow_parallelrun.__all__) <= set(dir(airflow_parallelrun))


def test_a_name_that_does_not_exist_gets_a_suggestion() -> None:
    with pytest.raises(AttributeError, match="'ParalelRunConfig'; did you mean 'ParallelRunConfig'"):
        _ = airflow_parallelrun.ParalelRunConfig
    with pytest.raises(AttributeError, match="it offers: ComputeTarget"):
        _ = airflow_parallelrun.xyz


def test_the_package_alone_imports_neither_airflow_nor_anything_heavy() -> None:
    modules = _probe(_PROBE)
    assert not modules & {*_HEAVY, "airflow"}


def test_everything_a_dag_file_imports_loads_nothing_heavy_beyond_the_sdk() -> None:
    assert not _probe(_PROBE_ALL) & set(_HEAVY)


@pytest.mark.parametrize("file", _DAGS, ids=lambda file: file.name)
def test_a_dag_file_loads_nothing_heavy(file: Path) -> None:
    modules = _probe(_PROBE_DAG_FILE, str(file))
    assert "airflow_parallelrun" in modules
    assert not modules & set(_HEAVY)


@pytest.mark.parametrize("file", _DAGS, ids=lambda file: file.name)
def test_every_process_makes_the_same_dag_of_a_file(file: Path) -> None:
    first, second = (json.loads(_run(_HASH, str(file), PYTHONHASHSEED=seed)) for seed in ("1", "2"))
    assert first
    assert first == second
