# SPDX-License-Identifier: Apache-2.0
"""What an administrator sets for models, from the environment or from Airflow's configuration file."""

from __future__ import annotations

import configparser
import os
import re
import tempfile
from typing import NamedTuple

from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError
from airflow_parallelrun.filesystems import is_remote

# Room for some large models; a disk of a node has more.
CACHE_BYTES = 20 << 30

_SIZE = re.compile(r"([1-9][0-9]{0,15})\s*(KB|MB|GB|TB)?", re.IGNORECASE)
_UNITS = {"": 0, "KB": 10, "MB": 20, "GB": 30, "TB": 40}


class CacheSettings(NamedTuple):
    """Where a machine keeps the models that it has fetched.

    :param folder: an absolute path
    :param limit_bytes: of all of them
    """

    folder: str
    limit_bytes: int


def models_root() -> str:
    """The folder or URL of the model registry.

    :raises ConfigurationError: when none is configured; names every place that was looked at
    """
    root = _configured("models_root")
    if root:
        return absolute_folder(root)
    raise ConfigurationError(
        f"no model registry is configured. Looked at: {', '.join(_variables('models_root'))} in the "
        f"environment, and [parallelrun] models_root in {_airflow_file()!r}. Set one of them to a folder, "
        "or to a URL such as abfs://connection@container/models."
    )


def cache_settings() -> CacheSettings:
    """Where this machine keeps models of a registry in an object store, and how much of them.

    :raises InvalidValueError: for what is no size
    """
    folder = _configured("models_cache")
    if not folder:
        folder = os.path.join(tempfile.gettempdir(), f"parallelrun-models-{os.getuid()}")
    size = _configured("models_cache_bytes") or str(CACHE_BYTES)
    match = _SIZE.fullmatch(size)
    if match is None:
        raise InvalidValueError("models_cache_bytes", size, "a number of bytes, or a size such as '20GB'")
    return CacheSettings(absolute_folder(folder), int(match[1]) << _UNITS[(match[2] or "").upper()])


def absolute_folder(path: str) -> str:
    """Return a configured folder with ``~`` and variables resolved; a URL as it is."""
    path = os.path.expandvars(path.strip())
    return path.rstrip("/") if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def _configured(option: str) -> str:
    for variable in _variables(option):
        if value := os.environ.get(variable, "").strip():
            return value
    return _from_airflow(_airflow_file(), option)


def _variables(option: str) -> tuple[str, str]:
    return f"PARALLELRUN_{option.upper()}", f"AIRFLOW__PARALLELRUN__{option.upper()}"


def _airflow_file() -> str:
    home = os.environ.get("AIRFLOW_HOME") or "~/airflow"
    return absolute_folder(os.environ.get("AIRFLOW_CONFIG") or os.path.join(home, "airflow.cfg"))


def _from_airflow(file: str, option: str) -> str:
    # Airflow's own reader is not imported: it takes seconds.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(file, encoding="utf-8")
    except (OSError, configparser.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file!r} cannot be read as Airflow's configuration: {error}") from error
    return parser.get("parallelrun", option, fallback="").strip()
