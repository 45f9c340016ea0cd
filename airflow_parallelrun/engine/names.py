# SPDX-License-Identifier: Apache-2.0
"""The names in a run directory: who made an object stands in its name, so that no two processes share one.

docs/run-directory.md describes what is behind each name.
"""

from __future__ import annotations

from typing import NamedTuple

PLAN = "plan.json"
MINI_BATCHES = "mini_batches.jsonl"
MINI_BATCHES_INDEX = "mini_batches.index"
CODE = "code.zip"
SIDE_INPUTS = "side_inputs.jsonl"
HEADER = "header"
PROBE = "probe"
ABORT = "abort.json"
ATTEMPTS = "attempts"
ENDS = "ends"
PAGES = "pages"
JOURNAL = "journal"
SEGMENTS = "segments"
ROUNDS = "rounds"
REDRIVES = "redrives"
LATEST_MODELS = "latest_models"


class Attempt(NamedTuple):
    """A started node process.

    :param node: the node's index, from 0
    :param k: which start of that node in this run directory this is, from 1
    """

    node: int
    k: int

    def __str__(self) -> str:
        """Return the form that stands in names, such as ``0-1``."""
        return f"{self.node}-{self.k}"

    @classmethod
    def parse(cls, text: str) -> Attempt:
        """Read the form back from the beginning of a name."""
        node, k = text.split("-")[:2]
        return cls(int(node), int(k))


class ControlEntry(NamedTuple):
    """What a node tells the others, all of it in an object's name: one listing shows every node.

    :param attempt: whose counts these are; each attempt counts what it journalled itself
    :param failed_items: items that failed
    :param failed_mini_batches: mini-batches that failed or came back short
    :param done: finished mini-batches
    :param init_failures: processes in a row that died in init(), or before they got anything done; 0 as long
        as another one works
    """

    attempt: Attempt
    failed_items: int
    failed_mini_batches: int
    done: int
    init_failures: int

    def __str__(self) -> str:
        """Return the object's name."""
        return "-".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> ControlEntry:
        """Read an object's name back."""
        numbers = [int(part) for part in text.split("-")]
        return cls(Attempt(*numbers[:2]), *numbers[2:])


def code(sha256: str) -> str:
    """Return the name of a copy of the code that a redrive has made; the plan's own is ``CODE``."""
    return f"code-{sha256[:16]}.zip"


def latest_model(name: str, version: int) -> str:
    """Return the name of the note that a script has asked for a model's latest version, and got this one."""
    return f"{LATEST_MODELS}/{version}-{name}"


def header(version: int) -> str:
    """Return the name of a version of what holds for all rows; there is more than one of a schema only."""
    return f"{HEADER}-{version}" if version else HEADER


def claims(round_: int) -> str:
    """Return the folder of a round's claims."""
    return f"claims/{round_}"


def control(round_: int) -> str:
    """Return the folder of a round's control entries."""
    return f"control/{round_}"


def abort(round_: int) -> str:
    """Return the name of a round's proposal to stop."""
    return f"{control(round_)}/{ABORT}"


def seal(round_: int) -> str:
    """Return the name of a round's seal."""
    return f"{ROUNDS}/{round_}/sealed.json"


def process_name(number: int) -> str:
    """Return a worker process's name as the original spells it."""
    return f"process{number:03d}"
