# SPDX-License-Identifier: Apache-2.0
"""An output folder has one owner, and a file in it is replaced only by the run that wrote it.

Everything of ours that is not a result lies in ``.parallelrun`` there: ``owner.json``, by exclusive create;
``published/<inode>-<size>-<mtime>`` for each result file, written before the file gets its name; and, by
default, the run directories. By these three a file is known again: it keeps them when it gets its name, and a
file that somebody else puts there has others.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from typing import TYPE_CHECKING, BinaryIO

from airflow_parallelrun.engine.store import Store, open_temporary, sync_folder
from airflow_parallelrun.exceptions import OutputExistsError, OutputOwnedError, StorageError
from airflow_parallelrun.rules import FAILED_ITEMS_FILE, OWN_FOLDER, RESULT_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

logger = logging.getLogger(__name__)

FOLDER = OWN_FOLDER
RESULT = RESULT_FILE
FAILED_ITEMS = FAILED_ITEMS_FILE

OWNER = "owner.json"


def folder(output: str) -> str:
    """Return the folder of our own things in an output folder."""
    return os.path.join(output, FOLDER)


def result_names(append_row_file_name: str | None) -> list[str]:
    """Return the names of the files that a run publishes."""
    return [name for name in (append_row_file_name, FAILED_ITEMS, RESULT) if name]


def take(output: str, owner: str, results: Sequence[str], anew: bool = True) -> None:
    """Make the folder and take it, or find that it is ours already.

    :param owner: who the run is
    :param results: names that the run will publish
    :param anew: whether the result that is there becomes untrue, and has to go
    :raises OutputOwnedError: when it belongs to another run
    :raises OutputExistsError: when a file of another origin has the name of a result
    """
    store = Store(folder(output))
    try:
        os.makedirs(output, exist_ok=True)
    except OSError as error:
        raise StorageError(output, error.strerror or str(error)) from error
    if not store.exists(OWNER):
        for name in results:
            if os.path.lexists(os.path.join(output, name)):
                raise OutputExistsError(os.path.join(output, name))
    record = {"format_version": 1, "owner": owner, "token": secrets.token_hex(8)}
    if not store.create_exclusive(OWNER, json.dumps(record).encode()):
        other = json.loads(store.read(OWNER))["owner"]
        if other != owner:
            raise OutputOwnedError(output, other)
    for name in results:
        _check_ours(output, name)
    if anew:  # its presence says that the other results are whole
        retract(output, RESULT)


def publish(output: str, name: str, written: str) -> str:
    """Give a complete, durable file its name.

    :param written: the file, below :func:`folder`; gone afterwards
    :return: the result's path
    :raises OutputExistsError: when a file of another origin has that name
    """
    target = os.path.join(output, name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    Store(folder(output)).put(_mark(os.stat(written)), name.encode())
    try:
        os.link(written, target)
    except FileExistsError:
        _check_ours(output, name)
        os.replace(written, target)
    else:
        os.unlink(written)
    sync_folder(os.path.dirname(target))
    logger.info("published %s", target)
    return target


@contextlib.contextmanager
def publishing(output: str, name: str) -> Iterator[BinaryIO]:
    """Give a new file to write a result to, and publish it when the block ends without an error.

    :raises OutputExistsError: when a file of another origin has that name
    :raises StorageError: when it cannot be written
    """
    written = ""
    try:
        os.makedirs(folder(output), exist_ok=True)
        with open_temporary(folder(output)) as file:
            written = file.name
            yield file
            file.flush()
            os.fsync(file.fileno())
            publish(output, name, written)
    except OSError as error:
        raise StorageError(os.path.join(output, name), error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):  # it has got its name; else the next reduce removes it
            os.unlink(written)


def is_published(output: str, name: str) -> bool:
    """Tell whether a result is there, and is what this run published."""
    status = _status(os.path.join(output, name))
    return status is not None and _is_ours(output, status)


def retract(output: str, name: str) -> None:
    """Remove a result that this run published before; nothing happens when there is none.

    :raises OutputExistsError: when a file of another origin has that name
    :raises StorageError: when it cannot be removed
    """
    _check_ours(output, name)
    target = os.path.join(output, name)
    try:
        os.unlink(target)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(target, error.strerror or str(error)) from error


def _check_ours(output: str, name: str) -> None:
    target = os.path.join(output, name)
    status = _status(target)
    if status is not None and not _is_ours(output, status):
        raise OutputExistsError(target)


def _status(path: str) -> os.stat_result | None:
    """Return what is known of a file; None when there is none."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(path, error.strerror or str(error)) from error


def _is_ours(output: str, status: os.stat_result) -> bool:
    return Store(folder(output)).exists(_mark(status))


def _mark(status: os.stat_result) -> str:
    return f"published/{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
