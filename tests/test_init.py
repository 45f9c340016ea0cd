# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys

import pytest

import airflow_parallelrun

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


def _probe(code: str) -> set[str]:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(ended.stdout.splitlines()[-1]))


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
