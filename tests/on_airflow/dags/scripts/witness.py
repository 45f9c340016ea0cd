# SPDX-License-Identifier: Apache-2.0
"""Returns what it saw, as one JSON text per item."""

from __future__ import annotations

import json
import logging
import os
import sys


def run(mini_batch: list[str]) -> list[str]:
    """Return for each item its name, how many came with it, the arguments, and the process."""
    logging.debug("a detail of %d items", len(mini_batch))
    saw = {"of": len(mini_batch), "arguments": sys.argv[1:], "process": os.getpid()}
    return [json.dumps({"item": os.path.basename(path), **saw}) for path in mini_batch]
