# SPDX-License-Identifier: Apache-2.0
"""Copies whole files, by the kernel or by the store where that can be."""

from __future__ import annotations

import os
import shutil
from functools import partial
from typing import BinaryIO

from airflow_parallelrun.engine.object_writer import ObjectWriter
from airflow_parallelrun.engine.objects import objects_at, patiently
from airflow_parallelrun.exceptions import StorageError
from airflow_parallelrun.filesystems import is_remote

_PIECE_BYTES = 8 << 20


def copy_into(file: BinaryIO | ObjectWriter, source: str, size: int) -> None:
    """Write the content of a file to another one.

    :param file: empty; of the file system, or an object
    :param source: a path or a URL
    :param size: bytes that it has
    :raises StorageError: when it cannot be read, or has another size
    """
    try:
        if is_remote(source):
            _copy_object(file, source, size)
        else:
            _copy_file(file, source, size)
    except FileNotFoundError as error:
        raise StorageError(source, "is gone") from error
    if file.tell() != size:
        raise StorageError(source, f"has {file.tell()} bytes, and had {size}")


def copy_range(source: int | None, offset: int, length: int, target: int) -> int:
    """Have the kernel copy bytes between two files, and return how many it has copied.

    Where it cannot, for whatever reason, the rest is read and written, and that tells what is wrong.

    :param source: a descriptor; None copies nothing
    :param target: another one; the bytes go where it stands
    """
    copied = 0
    try:
        while source is not None and copied < length:
            done = os.copy_file_range(source, target, length - copied, offset + copied)
            if not done:
                break
            copied += done
    except (OSError, AttributeError):  # a Python that was built for an old C library has no such function
        return copied
    return copied


def _copy_file(file: BinaryIO | ObjectWriter, path: str, size: int) -> None:
    try:
        with open(path, "rb") as source:
            if not isinstance(file, ObjectWriter):
                source.seek(copy_range(source.fileno(), 0, size, file.fileno()))
                file.seek(0, os.SEEK_END)
            shutil.copyfileobj(source, file, _PIECE_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(path, error.strerror or str(error)) from error


def _copy_object(file: BinaryIO | ObjectWriter, url: str, size: int) -> None:
    objects, place = objects_at(url)
    by_store = isinstance(file, ObjectWriter) and file.is_of(objects) and size >= file.part_bytes
    if isinstance(file, ObjectWriter) and by_store and file.can_copy(place.path):
        file.copy(place.path, 0, size)
        return
    for start in range(0, size, _PIECE_BYTES):
        read = partial(place.fs.cat_file, place.path, start=start, end=min(start + _PIECE_BYTES, size))
        file.write(patiently(url, read))
