# SPDX-License-Identifier: Apache-2.0
"""``python -m airflow_parallelrun.cli`` is the ``parallelrun`` command."""

from __future__ import annotations

import sys

from . import main

sys.exit(main())
