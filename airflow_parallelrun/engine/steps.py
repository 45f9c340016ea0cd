# SPDX-License-Identifier: Apache-2.0
"""A step's place in the storage root: what its runs leave there lies under its name.

Outputs that nobody gave a folder are in ``outputs/<dag>/<run>/<step>``, records of successes in
``reuse/<dag>/<step>``, those of processed files in ``processed/<dag>/<step>``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

# What every file system and every object store takes in a name, and run ids are made of.
_UNSAFE = re.compile(r"[^A-Za-z0-9._+:-]")
# File systems take 255 bytes.
_LONGEST = 200


@dataclass(frozen=True)
class StepRun:
    """A run of a step, by names that are the same when any part of it is tried again.

    :param dag: whose step it is
    :param run: which run, unique within the dag
    :param step: the step's name
    """

    dag: str
    run: str
    step: str

    def output(self, storage_root: str) -> str:
        """Return the output folder where none was asked for.

        :param storage_root: an absolute path, or a URL
        """
        return _join(storage_root, "outputs", self.dag, self.run, self.step)

    def successes(self, storage_root: str) -> str:
        """Return the folder of the records of successes, the same for all runs of the step."""
        return _join(storage_root, "reuse", self.dag, self.step)

    def processed(self, storage_root: str) -> str:
        """Return the folder of the records of processed files, the same for all runs of the step."""
        return _join(storage_root, "processed", self.dag, self.step)


def path_part(text: str) -> str:
    """Return a text from outside as one part of a path; those of different texts differ."""
    safe = _UNSAFE.sub("_", text)[:_LONGEST].lstrip(".")
    if safe and safe == text:
        return text
    return f"{safe}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _join(root: str, *names: str) -> str:
    return "/".join([root.rstrip("/"), *map(path_part, names)])
