# SPDX-License-Identifier: Apache-2.0
"""Where a worker's words go: standard streams and root logging to the process's files, as the original.

The node has opened stdout and stderr as files before the process started; here they are made to reach
the files line by line, and logging is set up on top.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import sys

# The node reads the level back from the file to show the line at that level in the task's log.
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up(level: str, entry_script_log: str) -> None:
    """Set up the standard streams, root logging and the ``EntryScript`` logger.

    :param level: WARNING, INFO or DEBUG
    :param entry_script_log: the file of the ``EntryScript`` logger; made when first used
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    faulthandler.enable()
    logging.basicConfig(level=level, format=FORMAT, stream=sys.stdout)
    logger = logging.getLogger("entry_script")
    logger.propagate = False
    os.makedirs(os.path.dirname(entry_script_log), exist_ok=True)
    handler = logging.FileHandler(entry_script_log, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
