# SPDX-License-Identifier: Apache-2.0
"""Keeps tests away from the Airflow of whoever runs them; has the stores' fixtures."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Airflow reads it when it is first imported, which a test module does before any fixture runs.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="parallelrun-tests-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

# Else gcsfs asks for the type of each bucket, for a minute, in a protocol that the emulator does not know.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

pytest_plugins = ["storage_servers"]
