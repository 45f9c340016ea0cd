# SPDX-License-Identifier: Apache-2.0
"""Where a process spends its time in the script's functions: figures of Python's profilers, for pstats."""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any, Callable

from .errors import ContractError

# So that a process that is killed leaves something; to write takes some milliseconds.
INTERVAL_S = 60.0


class Profiler:
    """Profiles calls, all of them together, in the thread that makes them.

    :param module: cProfile or profile
    :param path: where the figures go
    :raises ContractError: when this interpreter has no such module
    """

    def __init__(self, module: str, path: str) -> None:
        try:
            self._profile = importlib.import_module(module).Profile()
        except ImportError as error:
            raise ContractError(
                f"profiling_module is {module}, which {sys.executable} cannot import: {error}. Use another "
                "interpreter, or leave profiling_module out."
            ) from error
        # Python's own notion of the stack must end with the call that it was told of; only profile has one.
        self._end_call = getattr(self._profile, "simulate_cmd_complete", lambda: None)
        self._path = path
        self._written = time.monotonic()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function and return what it returned."""
        try:
            return self._profile.runcall(function, *arguments)
        finally:
            self._end_call()
            if time.monotonic() - self._written >= INTERVAL_S:
                self.write()

    def write(self) -> None:
        """Write all figures so far; the file is whole at any time."""
        temporary = f"{self._path}.tmp"
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._profile.dump_stats(temporary)
            os.replace(temporary, self._path)
        except OSError as error:  # a profile that is missing must not fail a mini-batch
            print(f"the profile cannot be written: {error}", file=sys.stderr)
        self._written = time.monotonic()
