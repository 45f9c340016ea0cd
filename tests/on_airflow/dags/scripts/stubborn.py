# SPDX-License-Identifier: Apache-2.0
"""The probe in processes that are hard to end: deaf to signals, and with children that are deaf, too.

``loose``: one more child, in the worker's group with an environment of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import probe

run = probe.run


def init() -> None:
    """Start the children; the run's folder on their command lines tells whose they are."""
    probe.init()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # children inherit it
    sleeper = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", probe.folder]
    subprocess.Popen(sleeper)
    subprocess.Popen(sleeper, start_new_session=True)
    if os.path.exists(os.path.join(probe.folder, "loose")):
        subprocess.Popen(sleeper, env={})
