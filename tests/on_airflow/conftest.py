# SPDX-License-Identifier: Apache-2.0
"""One Airflow for all tests here that do not need one of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

# What Airflow has and no entry script may see.
SECRETS = {"AIRFLOW_CONN_SECRET": "postgres://user:password@host/db", "SECRET_TOKEN": "of the deployment"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in this folder."""
    for item in items:
        if "on_airflow" in item.path.parts:
            item.add_marker(pytest.mark.airflow)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Start the Airflow that the tests share."""
    made = Workspace(tmp_path_factory.mktemp("airflow"), environment=SECRETS)
    try:
        made.airflow.start()
        yield made
    finally:
        made.airflow.stop()
