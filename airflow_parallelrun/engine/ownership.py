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
import os
import secrets
from typing import TYPE_CHECKING, BinaryIO

from airflow_parallelrun.config import FAILED_ITEMS_FILE, OWN_FOLDER, RESULT_FILE
from airflow_parallelrun.engine.store import Store, sync_folder
from airflow_parallelrun.exceptions import OutputExistsError, OutputOwnedError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER = OWN_FOLDER
RESULT = RESULT_FILE
FAILED_ITEMS = FAILED_ITEMS_FILE

_OWNER = "owner.json"
_TEMPORARY = ".tmp-"


def folder(output: str) -> str:
    """Return the folder of our own things in an output folder."""
    return os.path.join(output, FOLDER)


def result_names(append_row_file_name: str | None) -> list[str]:
    """Return the names of the files that a run publishes."""
    return [name for name in (append_row_file_name, FAILED_ITEMS, RESULT) if name]


def take(output: str, owner: str, results: Sequence[str]) -> None:
    """Make the folder and take it, or find that it is ours already.

    :param owner: who the run is
    :param results: names that the run will publish
    :raises OutputOwnedError: when it belongs to another run
    :raises OutputExistsError: when a file of another origin has the name of a result
    """
    store = Store(folder(output))
    try:
        os.makedirs(output, exist_ok=True)
    except OSError as error:
        raise StorageError(output, error.strerror or str(error)) from error
    if not store.exists(_OWNER):
        for name in results:
            if os.path.lexists(os.path.join(output, name)):
                raise OutputExistsError(os.path.join(output, name))
    record = {"format_version": 1, "owner": owner, "token": secrets.token_hex(8)}
    if not store.create_exclusive(_OWNER, json.dumps(record).encode()):
        other = json.loads(store.read(_OWNER))["owner"]
        if other != owner:
            raise OutputOwnedError(output, other)
    for name in results:
        _check_ours(output, name)
    # Its presence says that the other results are whole, and they are about to be made anew.
    retract(output, RESULT)


def temporary(output: str) -> str:
    """Return a new name in the output's own directory, for a result that is being written."""
    return os.path.join(output, f"{_TEMPORARY}{secrets.token_hex(8)}")


def publish(output: str, name: str, written: str) -> str:
    """Give a complete, durable file its name.

    :param written: the file, at a name made by :func:`temporary`; gone afterwards
    :return: the result's path
    :raises OutputExistsError: when a file of another origin has that name
    """
    target = os.path.join(output, name)
    Store(folder(output)).put(_mark(os.stat(written)), name.encode())
    try:
        os.link(written, target)
    except FileExistsError:
        _check_ours(output, name)
        os.replace(written, target)
    else:
        os.unlink(written)
    sync_folder(output)
    return target


@contextlib.contextmanager
def publishing(output: str, name: str) -> Iterator[BinaryIO]:
    """Give a new file to write a result to, and publish it when the block ends without an error.

    :raises OutputExistsError: when a file of another origin has that name
    :raises StorageError: when it cannot be written
    """
    written = temporary(output)
    try:
        with open(written, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(output, name, written)
    except OSError as error:
        raise StorageError(os.path.join(output, name), error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(written)


def retract(output: str, name: str) -> None:
    """Remove a result that this run published before; nothing happens when there is none.

    :raises OutputExistsError: when a file of another origin has that name
    """
    _check_ours(output, name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(output, name))


def _check_ours(output: str, name: str) -> None:
    target = os.path.join(output, name)
    try:
        mark = _mark(os.lstat(target))
    except FileNotFoundError:
        return
    if not Store(folder(output)).exists(mark):
        raise OutputExistsError(target)


def _mark(status: os.stat_result) -> str:
    return f"published/{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
