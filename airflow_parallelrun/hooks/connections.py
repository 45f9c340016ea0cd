# SPDX-License-Identifier: Apache-2.0
"""Airflow's connections to databases, where a task needs their URLs."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from airflow.sdk import Connection

from airflow_parallelrun.exceptions import ConfigurationError
from airflow_parallelrun.filesystems import variable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def provided(connections: Iterable[str]) -> Iterator[None]:
    """Give this process, and no other, the URLs of connections; those that it has already stay.

    :param connections: names; a URL is none
    :raises ConfigurationError: for a name that neither the environment nor Airflow knows
    """
    wanted = {variable(name): name for name in connections if "://" not in name}
    missing = {key: _url(name) for key, name in wanted.items() if key not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for key in missing:
            del os.environ[key]


def _url(name: str) -> str:
    """Return a connection's URL as SQLAlchemy has it.

    Its type's provider knows it; where none is installed, the type is the name of SQLAlchemy's dialect.
    """
    from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

    try:
        connection = Connection.get(name)
    except AirflowNotFoundException as error:
        raise ConfigurationError(
            f"there is no connection {name!r}: make an Airflow connection of that name, or set "
            f"{variable(name)} for the workers."
        ) from error
    try:
        hook = connection.get_hook()
    except AirflowException:
        return _of_fields(connection)
    try:
        return str(hook.sqlalchemy_url.render_as_string(hide_password=False))
    except (AttributeError, NotImplementedError):  # older providers have a method instead
        if hasattr(hook, "get_uri"):
            return str(hook.get_uri())
    raise ConfigurationError(
        f"the connection {name!r} is of the type {connection.conn_type!r}, which is no SQL database."
    )


def _of_fields(connection: Any) -> str:
    from sqlalchemy import URL

    url = URL.create(
        "postgresql" if connection.conn_type == "postgres" else connection.conn_type,
        connection.login or None,
        connection.password or None,
        connection.host or None,
        connection.port,
        connection.schema or None,
        {name: value for name, value in connection.extra_dejson.items() if isinstance(value, str)},
    )
    return url.render_as_string(hide_password=False)
