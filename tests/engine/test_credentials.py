# SPDX-License-Identifier: Apache-2.0
"""A node has the credentials of a store; what runs the script has not. In Airflow: tests/on_airflow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from airflow_parallelrun.filesystems import variable

if TYPE_CHECKING:
    import storage_servers
    from conftest import Job

TELLS_WHAT_IT_SEES = """
def init():
    assert "PATH" in os.environ

def run(mini_batch):
    seen = [str(dict(os.environ))]
    for name in ("environ", "cmdline", f"../{os.getppid()}/cmdline"):
        with open(f"/proc/self/{name}") as file:
            seen.append(file.read().replace("\\0", " "))
    return [" ".join(seen)]
"""


@pytest.mark.parametrize("start_method", ["exec", "fork"])
def test_no_process_and_no_object_has_the_key(
    job: Job, azure_store: storage_servers.ObjectStore, start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    job.files(3).split(TELLS_WHAT_IT_SEES, output=f"{azure_store.url}/out", start_method=start_method)
    with caplog.at_level("DEBUG"):
        job.run()
    assert azure_store.secret in os.environ[variable(azure_store.connection)]
    rows = azure_store.read("out/parallel_run_step.txt")
    assert rows.count(b"AZUREML_BI_OUTPUT_PATH") >= 3
    secret = azure_store.secret.encode()
    found = azure_store.paths()
    assert any(path.endswith("/plan.json") for path in found)
    assert [path for path in found if secret in azure_store.read(path)] == []
    assert caplog.text
    assert azure_store.secret not in caplog.text
