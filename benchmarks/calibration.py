# SPDX-License-Identifier: Apache-2.0
"""How many images take the loop long enough; found once, and kept beside the inputs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from benchmarks.peers import LOOP, Program, Task
from benchmarks.session import say
from benchmarks.workloads import IMAGES_IN_MINI_BATCH, MODEL_S, SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.inputs import Inputs
    from benchmarks.measure import Bench

_FIRST, _ROUNDED_TO = 20_000, 10_000


def images(script: str, inputs: Inputs, bench: Bench, kept: Path) -> int:
    """Return how many images a script is to get, so that the loop takes ``MODEL_S`` seconds.

    :param kept: the file with what was found before; it goes with its folder
    """
    sizes: dict[str, int] = json.loads(kept.read_text()) if kept.exists() else {}
    if script not in sizes:
        task = Task(SCRIPTS / f"{script}.py", inputs.images(_FIRST), IMAGES_IN_MINI_BATCH)
        loop = Program(LOOP, "loop")
        loop.run(task, bench)  # the first one reads the libraries from the disk
        took = loop.run(task, bench).measured
        count = _FIRST * (MODEL_S - took.wall_s + took.work_s) / took.work_s
        sizes[script] = math.ceil(count / _ROUNDED_TO) * _ROUNDED_TO
        kept.write_text(json.dumps(sizes))
        say(f"{script}: {_FIRST:,} images take the loop {took.wall_s:.2f} s, so it gets {sizes[script]:,}")
    return sizes[script]
