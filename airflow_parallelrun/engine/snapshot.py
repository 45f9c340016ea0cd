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

from airflow_parallelrun.engine.code_folder import check_size, code_files, ignore_file_of, local_code
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EntryScriptContractError,
    EntryScriptNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_parallelrun.config import ParallelRunConfig

_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Snapshot:
    """A frozen source directory.

    :param archive: a zip file whose bytes depend on names and contents alone
    :param sha256: of the archive, in hex
    :param names: of its files
    :param ignore_file: what said which files are no code; empty where nothing did
    """

    archive: bytes
    sha256: str
    names: frozenset[str]
    ignore_file: str


def take(
    config: ParallelRunConfig, base_directory: str, left_out: Iterable[str | None] = ()
) -> tuple[Snapshot, str]:
    """Freeze the code of a job, and return it with the entry script's path in it; the script is checked.

    Without a source_directory, the code is the folder that the entry script is in.

    :param base_directory: what a relative path is relative to
    :param left_out: what runs write; no code where it lies inside
    :raises InvalidValueError: when there is no such folder, file or archive
    :raises ConfigurationError: when it is too large to be scripts, or cannot be read
    :raises EntryScriptNotFoundError: when it has no such script
    :raises EntryScriptContractError: when the script is not Python
    :raises StorageError: when a store does not hand it out
    """
    given, entry_script = config.source_directory, config.entry_script
    if not given:
        given, entry_script = os.path.dirname(entry_script) or ".", os.path.basename(entry_script)
    with local_code(given, base_directory) as (folder, shown):
        check_entry_script(folder, entry_script, compile_it=config.environment.python is None, shown=shown)
        snapshot = freeze(folder, left_out, shown)
    if os.path.normpath(entry_script) not in snapshot.names:
        name = snapshot.ignore_file or "what is never code, such as byte code"
        raise ConfigurationError(
            f"the entry script {entry_script!r} is left out of the snapshot of {shown!r} by {name}."
        )
    return snapshot, entry_script


def check_entry_script(
    source_directory: str, entry_script: str, compile_it: bool, shown: str | None = None
) -> None:
    """Check what can be known about a script without running it.

    :param compile_it: whether the script runs on this interpreter's version of Python
    :param shown: what people call the source directory
    :raises EntryScriptNotFoundError: when it is not a file below the source directory
    :raises EntryScriptContractError: when it is not Python
    """
    path = os.path.join(source_directory, entry_script)
    inside = os.path.realpath(path).startswith(os.path.realpath(source_directory) + os.sep)
    if not inside or not os.path.isfile(path):
        raise EntryScriptNotFoundError(entry_script, shown or source_directory)
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


def freeze(source_directory: str, left_out: Iterable[str | None] = (), shown: str | None = None) -> Snapshot:
    """Freeze a folder. What symbolic links point to is frozen with it.

    What its ``.amlignore`` (or else ``.gitignore``) names is left out, and so are version control, byte code
    and virtual environments (``.venv``); a folder that is left out is not looked into.

    :param left_out: what runs write; no code where it lies inside
    :param shown: what people call the source directory
    :raises ConfigurationError: when it is too large to be a folder of scripts, or cannot be read
    """
    shown = shown or source_directory
    try:
        ignored = ignore_file_of(source_directory)
        paths = code_files(source_directory, ignored, left_out)
        check_size(shown, {name: os.path.getsize(path) for name, path in paths.items()})
        data = _archive(paths)
    except OSError as error:
        raise ConfigurationError(
            f"source_directory {shown!r} cannot be read: {error.filename!r}: {error.strerror}."
        ) from error
    return Snapshot(data, hashlib.sha256(data).hexdigest(), frozenset(paths), ignored.name)


def _archive(paths: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, path in sorted(paths.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
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
