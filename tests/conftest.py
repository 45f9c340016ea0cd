# SPDX-License-Identifier: Apache-2.0
"""Keeps tests away from the Airflow of whoever runs them; has the stores' fixtures; deals tests out."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Airflow reads it when it is first imported, which a test module does before any fixture runs.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="parallelrun-tests-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

pytest_plugins = ["storage_servers"]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together, in one of several processes, the tests of a file, and all that start an Airflow."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        group = "airflow" if folder in ("demo", "on_airflow") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
