# SPDX-License-Identifier: Apache-2.0
"""Connections to databases, by name: their URLs, which hold passwords, never stand in a plan."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import ConfigurationError
from airflow_parallelrun.filesystems import variable

if TYPE_CHECKING:
    from collections.abc import Mapping


def url(connection: str) -> str:
    """Return the URL of a connection.

    :param connection: its name, or the URL itself
    :raises ConfigurationError: when the environment does not have it
    """
    if "://" in connection:
        return connection
    try:
        return os.environ[variable(connection)]
    except KeyError:
        raise ConfigurationError(
            f"there is no connection {connection!r}: make an Airflow connection of that name, or set "
            f"{variable(connection)} to a URL such as postgresql://user:password@host/database."
        ) from None


def connected(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what processes need to know of an input; of a query the database's URL as well.

    :raises ConfigurationError: when the environment does not have it
    """
    return {**source, "url": url(source["connection"])} if "connection" in source else {**source}
