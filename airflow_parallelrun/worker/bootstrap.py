# SPDX-License-Identifier: Apache-2.0
"""Start a module of the worker from here alone: ``python bootstrap.py MODULE NUMBER …``.

The folder is loaded under a private name, so that nothing of this project and nothing of the interpreter
that runs the node gets on the path of the user's script.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

NAME = "_parallelrun_worker"


def load(folder: str) -> None:
    """Load the worker package from its folder under its private name."""
    spec = importlib.util.spec_from_file_location(
        NAME, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    sys.path.pop(0)
    load(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module(f"{NAME}.{sys.argv[1]}").main(*map(int, sys.argv[2:]))
