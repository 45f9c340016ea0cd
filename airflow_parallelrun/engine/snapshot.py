# SPDX-License-Identifier: Apache-2.0
"""The code snapshot: the source directory, frozen once per run, the same for every node and every retry."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EntryScriptContractError,
    EntryScriptNotFoundError,
    InvalidValueError,
)
from airflow_parallelrun.rules import OWN_FOLDER

if TYPE_CHECKING:
    from airflow_parallelrun.config import ParallelRunConfig

# The original's own limit for a snapshot.
SIZE_LIMIT_BYTES = 300 * 1024 * 1024

_LEFT_OUT = {"__pycache__", ".git", ".venv", OWN_FOLDER}
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Snapshot:
    """A frozen source directory.

    :param archive: a zip file whose bytes depend on names and contents alone
    :param sha256: of the archive, in hex
    """

    archive: bytes
    sha256: str


def find_code(config: ParallelRunConfig, base_directory: str) -> tuple[str, str]:
    """Return the folder to freeze, and the entry script's path in it; both are checked.

    Without a source_directory, it is the folder that the entry script is in.

    :param base_directory: what a relative path is relative to
    :raises InvalidValueError: when there is no such folder
    :raises EntryScriptNotFoundError: when it has no such script
    :raises EntryScriptContractError: when the script is not Python
    """
    folder, entry_script = config.source_directory, config.entry_script
    if not folder:
        folder, entry_script = os.path.dirname(entry_script) or ".", os.path.basename(entry_script)
    path = os.path.abspath(os.path.join(base_directory, os.path.expanduser(folder)))
    if not os.path.isdir(path):
        raise InvalidValueError("source_directory", folder, f"an existing folder (looked at {path!r})")
    check_entry_script(path, entry_script, compile_it=config.environment.python is None)
    return path, entry_script


def check_entry_script(source_directory: str, entry_script: str, compile_it: bool) -> None:
    """Check what can be known about a script without running it.

    :param compile_it: whether the script runs on this interpreter's version of Python
    :raises EntryScriptNotFoundError: when it is not a file below the source directory
    :raises EntryScriptContractError: when it is not Python
    """
    path = os.path.join(source_directory, entry_script)
    inside = os.path.realpath(path).startswith(os.path.realpath(source_directory) + os.sep)
    if not inside or not os.path.isfile(path):
        raise EntryScriptNotFoundError(entry_script, source_directory)
    if not entry_script.endswith(".py"):
        raise EntryScriptContractError(
            entry_script, "an entry script is a Python file, its name ends in .py."
        )
    if compile_it:
        with open(path, "rb") as file:
            source = file.read()
        try:
            ast.parse(source, entry_script)
        except (SyntaxError, ValueError) as error:
            place = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
            raise EntryScriptContractError(entry_script, f"is not valid Python: {place}{error}.") from error


def freeze(source_directory: str, output: str | None = None) -> Snapshot:
    """Freeze a folder. What symbolic links point to is frozen with it.

    Version control, byte code and virtual environments (``.venv``) are left out.

    :param output: the output folder; left out if it lies inside
    :raises ConfigurationError: when it is too large to be a folder of scripts, or cannot be read
    """
    try:
        data = _archive(source_directory, output)
    except OSError as error:
        raise ConfigurationError(
            f"source_directory {source_directory!r} cannot be read: {error.filename!r}: {error.strerror}."
        ) from error
    return Snapshot(data, hashlib.sha256(data).hexdigest())


def _archive(source_directory: str, output: str | None) -> bytes:
    buffer = io.BytesIO()
    total = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in _files(source_directory, output):
            total += os.path.getsize(path)
            if total > SIZE_LIMIT_BYTES:
                raise ConfigurationError(
                    f"source_directory {source_directory!r} has more than {SIZE_LIMIT_BYTES >> 20} MiB. "
                    "It is copied to every node: keep the scripts in a folder of their own."
                )
            info = zipfile.ZipInfo(os.path.relpath(path, source_directory), _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (os.stat(path).st_mode & 0o777) << 16
            with open(path, "rb") as file:
                archive.writestr(info, file.read())
    return buffer.getvalue()


def unpack(archive: bytes, target: str) -> None:
    """Unpack a snapshot into a folder, which is made."""
    os.makedirs(target, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        for info in file.infolist():
            path = file.extract(info, target)
            os.chmod(path, info.external_attr >> 16)  # extract() forgets what was executable


def _files(folder: str, output: str | None) -> list[str]:
    found = []
    above = {folder: {os.path.realpath(output)} if output else set()}
    for parent, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(parent)
        if here in above[parent]:  # the output, or a link back to a folder that we are in
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        above |= {os.path.join(parent, name): above[parent] | {here} for name in folders}
        found += [os.path.join(parent, name) for name in files if not name.endswith(".pyc")]
    for path in found:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise ConfigurationError(f"source_directory has a file {path!a}: not UTF-8.") from error
    return sorted(path for path in found if os.path.isfile(path))
