# SPDX-License-Identifier: Apache-2.0
"""The stores that a run's URLs name, from Airflow's connections."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from airflow_parallelrun.filesystems import connection_of, has_users, is_known, provided, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# They tell each request, or each connection, at INFO: thousands of lines in the log of a task.
_TALKATIVE = ("azure.core.pipeline.policies.http_logging_policy", "asyncssh")


@contextlib.contextmanager
def connected(urls: Iterable[str]) -> Iterator[None]:
    """Give this process the file systems of the connections that URLs name; those that it has already stay.

    For the main thread of a task, inside ``execute``: Airflow's connections are read there.

    :param urls: also such as name no connection
    :raises ConfigurationError: for a connection that neither the environment nor Airflow knows, or that
        cannot be used
    """
    from airflow.sdk.exceptions import AirflowNotFoundException

    from airflow_parallelrun.hooks.datastore import DatastoreHook

    for logger in map(logging.getLogger, _TALKATIVE):
        if logger.level == logging.NOTSET:  # else somebody wants it so
            logger.setLevel(logging.WARNING)
    made = {}
    for key in sorted({key for url in urls if (key := connection_of(url)) and not is_known(key)}):
        scheme, name = key
        try:
            made[key] = DatastoreHook(name).get_fs(scheme)
        except AirflowNotFoundException as error:
            # sftp://user@host: it is a user.
            if not has_users(scheme):
                raise unknown(key) from error
    with provided(made):
        yield
