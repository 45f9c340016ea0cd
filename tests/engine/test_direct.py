# SPDX-License-Identifier: Apache-2.0
"""URLs that the script opens itself: no file on this machine is looked for."""

from __future__ import annotations

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.worker.loading import find


def test_urls_are_handed_to_the_script_as_they_are(job):
    store = MemoryFileSystem()
    for name in ("a", "b"):
        store.pipe(f"/direct/{name}", name.encode())
    inputs = (FileDataset.from_files("memory://direct/").as_direct(),)
    try:
        job.split("def run(mini_batch): return mini_batch\n", inputs=inputs).run()
    finally:
        store.rm("/direct", recursive=True)
    assert job.rows() == ["memory:///direct/a", "memory:///direct/b"]
    assert fsspec.utils.get_protocol(job.rows()[0]) == "memory"


def test_the_state_of_a_url_is_for_the_plan_alone():
    item = ["s3://bucket/key", 3, 17, "etag"]
    assert find([item]) == ([item], ["s3://bucket/key"], None)
