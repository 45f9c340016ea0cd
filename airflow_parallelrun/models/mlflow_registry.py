# SPDX-License-Identifier: Apache-2.0
"""Models of an MLflow registry, by the URIs that MLflow has for them.

Where the registry is, and how to log in there, MLflow's own variables say on each machine, such as
``MLFLOW_TRACKING_URI``.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import ConfigurationError, StorageError
from airflow_parallelrun.filesystems import hide

if TYPE_CHECKING:
    from collections.abc import Callable

_URI = re.compile(r"models:/([^/@]+)[/@](.+)")
_USER = re.compile(r"(://)[^/@\s]+@")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def name_of(uri: str) -> str:
    """Return the name of a URI's model."""
    return _parts(uri)[0]


def frozen(uri: str) -> str:
    """Return a URI with the version that it stands for now.

    :raises ConfigurationError: when MLflow is not installed, or its registry has no such model
    :raises StorageError: when the registry cannot be asked
    """
    name, wanted = _parts(uri)
    client: Any = _mlflow(uri).MlflowClient()
    if "@" in uri:
        version = _ask(uri, lambda: client.get_model_version_by_alias(name, wanted).version)
    elif wanted == "latest":
        query = "name='{}'".format(name.replace("'", "''"))
        found = _ask(uri, lambda: [int(each.version) for each in client.search_model_versions(query)])
        if not found:
            raise _unknown(uri, "it has no version")
        version = max(found)
    else:
        version = _ask(uri, lambda: client.get_model_version(name, wanted).version)
    return f"models:/{name}/{int(version)}"


def fetch(uri: str, target: str) -> None:
    """Fetch a model into a folder, which is made.

    :raises ConfigurationError: when MLflow is not installed, or its registry has no such model
    :raises StorageError: when it cannot be fetched
    """
    os.makedirs(target, exist_ok=True)
    mlflow = _mlflow(uri)
    _ask(uri, lambda: mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=target))


def _parts(uri: str) -> tuple[str, str]:
    match = _URI.fullmatch(uri)
    assert match is not None
    return match[1], match[2]


def _mlflow(uri: str) -> Any:
    try:
        import mlflow.artifacts
    except ImportError as error:
        raise ConfigurationError(
            f"model={uri!r} is of MLflow, which cannot be imported ({error}): "
            "pip install 'airflow-provider-parallelrun[mlflow]'"
        ) from error
    return mlflow


def _ask(uri: str, question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - every store behind MLflow raises errors of its own
        why = _USER.sub(r"\1***@", hide(str(error).partition("\n")[0]))
        if getattr(error, "error_code", None) in _ABSENT:
            raise _unknown(uri, why) from None
        raise StorageError(uri, f"MLflow: {type(error).__name__}: {why}") from None


def _unknown(uri: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"the MLflow registry of this machine has no model {uri!r}: {why.rstrip('.')}.")
