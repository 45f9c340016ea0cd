# SPDX-License-Identifier: Apache-2.0
"""Lists a folder as ``split`` does, and prints how long that takes: JSON with files and seconds."""

from __future__ import annotations

import json
import sys
import time

from airflow_parallelrun.datasets import list_files


def main(folder: str) -> None:
    """List a folder, and print how long it took."""
    began = time.monotonic()
    files = sum(1 for _ in list_files([folder]))
    print(json.dumps({"files": files, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(sys.argv[1])
