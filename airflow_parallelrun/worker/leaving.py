# SPDX-License-Identifier: Apache-2.0
"""How a worker process ends: as Python does, but for what takes long and nobody waits for.

To take TensorFlow apart at the end of the interpreter takes a second or more. So the process leaves, as
those of multiprocessing do, behind all that a script may count on: its threads have ended, what was
registered with ``atexit`` has run, the project's own global objects are gone and have closed their files, and
what is still open has been flushed.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import logging
import os
import sys
from contextlib import suppress
from typing import Any

_WRITERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


class Leaving:
    """Made before the script is imported, so that it comes behind all that the script registers.

    What a fork server's libraries have registered does not run in those that are forked from it.
    """

    def __init__(self) -> None:
        self.status = 1
        #: The folder of the project's modules.
        self.source_directory = ""
        atexit.register(self._leave)

    def _leave(self) -> None:
        for module in list(sys.modules.values()):
            if self.source_directory and _is_below(module, self.source_directory):
                _clear(module)
        gc.collect()
        logging.shutdown()
        for each in gc.get_objects():
            if isinstance(each, _WRITERS):
                with suppress(Exception):  # closed meanwhile; or its disk is full, and nobody is left to tell
                    each.flush()
        ctypes.CDLL(None).fflush(None)
        os._exit(self.status)


def _is_below(module: Any, folder: str) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and os.path.abspath(file).startswith(folder + os.sep)


def _clear(module: Any) -> None:
    """Let go of a module's global objects, the last ones first: they may need what was imported before."""
    values = vars(module)
    for name in reversed([name for name in values if not name.startswith("__")]):
        values.pop(name, None)
