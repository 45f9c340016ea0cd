# SPDX-License-Identifier: Apache-2.0
"""Airflow's connections to stores of files, as fsspec's file systems."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_parallelrun.driver_errors import told
from airflow_parallelrun.exceptions import ConfigurationError
from airflow_parallelrun.filesystems import (
    SHORTEST_SECRET,
    driver_missing,
    keep_secret,
    make_filesystem,
    secrets_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Connection

CONN_TYPE = "parallelrun_datastore"

# Schemes that one driver answers to; the first is the name that Airflow's object storage knows.
_SAME = (("abfs", "abfss", "az"), ("s3", "s3a"), ("gs", "gcs"), ("sftp", "ssh"))
# What a connection that another provider has is for, where no URL says it.
_SCHEMES = {
    "wasb": "abfs",
    "adls": "abfs",
    "azure_data_lake": "abfs",
    "aws": "s3",
    "google_cloud_platform": "gs",
    "sftp": "sftp",
}
_PACKAGES = {
    "abfs": "apache-airflow-providers-microsoft-azure",
    "s3": "apache-airflow-providers-amazon[s3fs]",
    "gs": "apache-airflow-providers-google",
    "sftp": "apache-airflow-providers-sftp[sshfs]",
}


class DatastoreHook(BaseHook):
    """A store of files behind an Airflow connection.

    The connection is a *Datastore* (``parallelrun_datastore``), which has the options of fsspec's driver, or
    one of the types that other providers have: ``wasb``, ``adls``, ``aws``, ``google_cloud_platform`` and
    ``sftp``, which Airflow's object storage support makes file systems of.

    Use it where a task runs: making a hook reads nothing, each method reads the connection.

    :param datastore_conn_id: the name of the connection
    """

    conn_name_attr = "datastore_conn_id"
    default_conn_name = "datastore_default"
    conn_type = CONN_TYPE
    hook_name = "Datastore (fsspec)"

    def __init__(self, datastore_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.datastore_conn_id = datastore_conn_id

    def get_conn(self) -> Any:
        """Return the file system, by the protocol that the connection itself names."""
        return self.get_fs()

    def get_fs(self, scheme: str | None = None) -> Any:
        """Return fsspec's file system.

        No message and no log of this process has the connection's secrets in it from now on.

        :param scheme: the scheme of the URL that names the connection; default what the connection is for
        :raises ConfigurationError: for a connection that is not for this scheme, for options that the driver
            refuses, and for a provider or a driver that is not installed
        :raises AirflowNotFoundException: when there is no such connection
        """
        connection = self.get_connection(self.datastore_conn_id)
        _keep_secret(connection)
        scheme = scheme or self._scheme(connection)
        if connection.conn_type != CONN_TYPE:
            return self._from_provider(connection, scheme)
        protocol = self._protocol(connection)
        if _first(protocol) != _first(scheme):
            raise self._error(f"it is for {protocol}://, and the URL begins with {scheme}://")
        try:
            return make_filesystem(scheme, self._options(connection))
        except ConfigurationError as error:
            raise self._error(str(error)) from error

    def test_connection(self) -> tuple[bool, str]:
        """List the root of the store; Airflow calls it for the Test button and ``airflow connections test``.

        :return: whether that went well, and what to tell people, without a secret
        """
        try:
            connection = self.get_connection(self.datastore_conn_id)
            root = str(connection.extra_dejson.get("root") or "").strip("/")
            place = f"{self._scheme(connection)}://{root}"
            found = len(self.get_fs().ls(root, detail=False))
        except ConfigurationError as error:
            return False, str(error)
        except Exception as error:  # noqa: BLE001 - every driver raises errors of its own
            return False, f"{self.datastore_conn_id!r} cannot be listed: {told(error)}"
        return True, f"{place} can be listed, and has {found} entr{'y' if found == 1 else 'ies'}."

    def _from_provider(self, connection: Connection, scheme: str) -> Any:
        from airflow.sdk.io import get_fs
        from airflow.sdk.io.fs import has_fs

        wanted = _first(scheme)
        if not has_fs(wanted):
            package = _PACKAGES.get(wanted)
            install = f"install {package}, or make it" if package else "make it"
            raise self._error(f"nothing here opens {scheme}:// with it: {install} a Datastore ({CONN_TYPE})")
        options = _azure_account(connection) if wanted == "abfs" else {}
        try:
            return get_fs(wanted, self.datastore_conn_id, options)
        except ImportError as error:
            raise driver_missing(f"{wanted}://", error) from error
        except Exception as error:  # noqa: BLE001 - every provider raises errors of its own
            raise self._error(told(error)) from None

    def _scheme(self, connection: Connection) -> str:
        if connection.conn_type == CONN_TYPE:
            return self._protocol(connection)
        try:
            return _SCHEMES[str(connection.conn_type)]
        except KeyError:
            known = ", ".join((CONN_TYPE, *_SCHEMES))
            raise self._error(
                f"its type is {connection.conn_type!r}, which is no store of files; those are {known}"
            ) from None

    def _protocol(self, connection: Connection) -> str:
        protocol = connection.extra_dejson.get("protocol")
        if not isinstance(protocol, str) or not protocol:
            raise self._error("it does not say its protocol, such as abfs, s3 or gs")
        return protocol

    def _options(self, connection: Connection) -> dict[str, Any]:
        options = connection.extra_dejson.get("options") or {}
        secret = _object(connection.password) if connection.password else {}
        for what, found in (("options", options), ("secret options", secret)):
            if not isinstance(found, dict):
                example = '{"account_name": "…"}'
                raise self._error(f"its {what} must be a JSON object, such as {example}")
        return {**options, **(secret or {})}

    def _error(self, problem: str) -> ConfigurationError:
        name = self.datastore_conn_id
        return ConfigurationError(f"the connection {name!r} cannot be used: {problem.rstrip('.')}.")


def _first(scheme: str) -> str:
    return next((same[0] for same in _SAME if scheme in same), scheme)


def _azure_account(connection: Connection) -> dict[str, str]:
    """Return what adlfs must know and Microsoft's provider does not tell it.

    The provider makes an ``account_url`` of host and login, which adlfs ignores: without an account's name
    it refuses to start.
    """
    extra = connection.extra_dejson
    if extra.get("connection_string") or extra.get("account_name"):
        return {}
    host = (connection.host or "").rpartition("://")[2].partition("/")[0]
    # With a tenant the login is a client of Entra ID.
    login = connection.login if connection.login and not extra.get("tenant_id") else ""
    found = {"account_name": host.partition(".")[0] or login}
    if "." in host and not extra.get("account_host"):
        found["account_host"] = host
    return found


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _keep_secret(connection: Connection) -> None:
    from airflow.sdk.log import mask_secret

    secrets = {text for text in _secrets(connection) if len(text) >= SHORTEST_SECRET}
    keep_secret(secrets)
    for text in sorted(secrets):
        mask_secret(text)


def _secrets(connection: Connection) -> Iterator[str]:
    if connection.password:
        yield connection.password
        hidden = _object(connection.password) or {}
        yield from secrets_of(hidden)
        yield from (value for value in hidden.values() if isinstance(value, str))
    yield from secrets_of(connection.extra_dejson)
