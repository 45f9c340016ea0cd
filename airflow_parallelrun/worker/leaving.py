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
import threading
import traceback
from contextlib import suppress
from typing import Any

_WRITERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


class Leaving:
    """Made before the script is imported, so that it comes behind all that the script registers.

    What a fork server's libraries have registered with ``atexit`` does not run in those that are forked from
    it.
    """

    def __init__(self) -> None:
        self.status = 1
        #: The folder of the project's modules.
        self.source_directory = ""
        atexit.register(self._leave)

    def _leave(self) -> None:
        try:
            self._let_go()
            _flush()
        except Exception:  # noqa: BLE001 - objects of the project; whatever they do, the process leaves
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(self.status)

    def _let_go(self) -> None:
        # Daemon threads go on meanwhile; that they miss something is no news.
        threading.excepthook = lambda _: None
        processes = sys.modules.get("multiprocessing.util")
        if processes is not None:  # where the fork server has imported it, that is not registered here
            processes._exit_function()
        for module in list(sys.modules.values()):
            if self.source_directory and _is_below(module, self.source_directory):
                _clear(module)
        gc.collect()
        logging.shutdown()


def _flush() -> None:
    """Flush every file that is open: Python's own, and those of C code."""
    streams = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    # By its type: a proxy asks for the class of what it stands for, which may be gone.
    files = [each for each in gc.get_objects() if issubclass(type(each), _WRITERS)]
    for each in [*streams, *files]:
        with suppress(Exception):  # closed meanwhile; or its disk is full, and nobody is left to tell
            each.flush()
    ctypes.CDLL(None).fflush(None)


def _is_below(module: Any, folder: str) -> bool:
    try:
        file = getattr(module, "__file__", None)
    except Exception:  # noqa: BLE001 - a package may put anything in the place of a module
        return False
    return type(file) is str and os.path.abspath(file).startswith(folder + os.sep)


def _clear(module: Any) -> None:
    """Let go of a module's global objects, the last ones first: they may need what was imported before."""
    values = vars(module)
    for name in reversed([name for name in values if not name.startswith("__")]):
        values.pop(name, None)
