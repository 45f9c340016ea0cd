# SPDX-License-Identifier: Apache-2.0
"""Leaves a line for every item that it is called with, and does what the files in its folder say.

The lines are in ``calls``; items with which it had to wait have one in ``held``, too.

``hold`` and ``hold-<item>``: waits as long as the file is there. ``fail`` and ``fail-<item>``: raises.
``fail-init``: init() raises. ``slow`` and ``slow-<item>``: takes a tenth of a second longer.
"""

from __future__ import annotations

import argparse
import logging
import os
import time


class UnreadableDigitError(ValueError):
    """What a script of a user might raise."""


def init() -> None:
    """Find the folder of this DAG run."""
    global folder
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    folder = parser.parse_known_args()[0].folder
    logging.debug("a detail of init")
    if os.path.exists(os.path.join(folder, "fail-init")):
        raise FileNotFoundError("the weights are not there")


def run(mini_batch: list[str]) -> list[str]:
    """Return the item's name: each row says which item it is from."""
    names = [os.path.basename(path) for path in mini_batch]
    for name in names:
        _note("calls", name)
        if _told("slow", name):
            time.sleep(0.1)
        if _told("hold", name):
            _note("held", name)
        while _told("hold", name):
            time.sleep(0.02)
        if _told("fail", name):
            raise UnreadableDigitError(f"no digit in {name}")
    return names


def _note(what: str, name: str) -> None:
    with open(os.path.join(folder, what), "a") as file:
        file.write(f"{name} {os.getpid()}\n")


def _told(what: str, name: str) -> bool:
    return any(os.path.exists(os.path.join(folder, flag)) for flag in (what, f"{what}-{name}"))
