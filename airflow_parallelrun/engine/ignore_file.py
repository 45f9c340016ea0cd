# SPDX-License-Identifier: Apache-2.0
"""The file that says what of a source directory is no code: ``.amlignore``, or else ``.gitignore``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from airflow_parallelrun.exceptions import ConfigurationError
from airflow_parallelrun.rules import OWN_FOLDER

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

# The first one that there is counts, alone, as in the original.
IGNORE_FILES = (".amlignore", ".gitignore")

_NEVER_CODE = frozenset({"__pycache__", ".git", ".venv", OWN_FOLDER})


class IgnoreFile:
    """What is left out of a snapshot: what nobody wants there, and what the ignore file names.

    :param name: of the file; empty where there is none
    :param patterns: its patterns
    """

    def __init__(self, name: str = "", patterns: GitIgnoreSpec | None = None) -> None:
        self.name = name
        self._patterns = patterns

    @classmethod
    def of(cls, name: str, content: bytes) -> Self:
        """Read an ignore file, in the syntax of ``.gitignore``.

        :raises ConfigurationError: when it is not UTF-8, or a line of it is no pattern
        """
        from pathspec import GitIgnoreSpec

        try:
            lines = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{name} of the source directory is not UTF-8: {error}.") from error
        for number, line in enumerate(lines, 1):
            try:
                GitIgnoreSpec.from_lines([line])
            except ValueError as error:
                raise ConfigurationError(
                    f"{name} of the source directory, line {number}: {line!r} is no pattern of .gitignore."
                ) from error
        return cls(name, GitIgnoreSpec.from_lines(lines))

    def leaves_out(self, path: str, is_folder: bool) -> bool:
        """Tell whether a file, or a folder with all that is in it, is left out.

        :param path: relative to the source directory
        """
        name = path.rpartition("/")[2]
        if name in _NEVER_CODE or (not is_folder and name.endswith(".pyc")):
            return True
        return self._patterns is not None and self._patterns.match_file(path + "/" * is_folder)
