# SPDX-License-Identifier: Apache-2.0
"""The deployment's settings, from Airflow's configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass

from airflow.sdk import conf

from airflow_parallelrun.models import absolute_folder


@dataclass(frozen=True)
class Settings:
    """What an administrator sets once for all DAGs; read where a task runs, never when a DAG is parsed.

    :param models_root: folder of the model registry; None where there is none
    :param storage_root: folder of the run directories; None = in each run's output folder
    :param max_nodes: the most nodes one run can have, Airflow's ``[core] max_map_length``
    """

    models_root: str | None
    storage_root: str | None
    max_nodes: int


def read_settings() -> Settings:
    """Read ``[parallelrun]`` and what of ``[core]`` limits a run."""
    models_root = os.environ.get("PARALLELRUN_MODELS_ROOT") or _option("models_root")
    return Settings(
        models_root=models_root and absolute_folder(models_root),
        storage_root=_option("storage_root"),
        max_nodes=conf.getint("core", "max_map_length", fallback=1024),
    )


def _option(name: str) -> str | None:
    value = conf.get("parallelrun", name, fallback="")
    return str(value).strip() or None
