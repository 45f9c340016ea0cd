# SPDX-License-Identifier: Apache-2.0
"""What a process gets of the machine: its share of the CPUs."""

from __future__ import annotations

import os

import pytest
from workbench import make_config

from airflow_parallelrun.engine.pool import worker_environment

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name in POOLS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("processes", "threads"), [(None, "1"), (1, "8"), (3, "2"), (8, "1"), (100, "1")])
def test_processes_share_the_cpus(processes, threads):
    environment = worker_environment(make_config(process_count_per_node=processes), "/out", None)
    assert {environment[name] for name in POOLS} == {threads}


def test_what_the_node_or_the_user_says_comes_first(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    config = make_config(environment_variables={"MKL_NUM_THREADS": "6"})
    environment = worker_environment(config, "/out", None)
    assert [environment[name] for name in POOLS] == ["5", "6", "1", "1"]
