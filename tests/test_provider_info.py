# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import airflow_parallelrun
from airflow_parallelrun.hooks.datastore import DatastoreHook
from airflow_parallelrun.provider_info import get_provider_info

_ROOT = Path(airflow_parallelrun.__file__).parents[1]
_PACKAGE = "airflow-provider-parallelrun"


def test_it_keeps_airflows_schema() -> None:
    jsonschema.validate(get_provider_info(), _schema("provider_info.schema.json"))


def test_the_connection_form_keeps_airflows_schema() -> None:
    # The other schema says nothing of the form's fields.
    form = _schema("provider.yaml.schema.json")["properties"]["connection-types"]
    jsonschema.validate(get_provider_info()["connection-types"], form)


def _schema(name: str) -> dict[str, Any]:
    airflow = importlib.util.find_spec("airflow")
    assert airflow is not None
    assert airflow.submodule_search_locations is not None
    schema: dict[str, Any] = json.loads(Path(airflow.submodule_search_locations[0], name).read_text())
    return schema


def test_it_names_what_is_there() -> None:
    info = get_provider_info()
    assert info["package-name"] == _PACKAGE
    assert info["versions"] == [airflow_parallelrun.__version__]
    for group in [*info["operators"], *info["hooks"]]:
        for module in group["python-modules"]:
            importlib.import_module(module)
    (form,) = info["connection-types"]
    assert form["hook-class-name"] == f"{DatastoreHook.__module__}.{DatastoreHook.__name__}"
    assert (form["connection-type"], form["hook-name"]) == (DatastoreHook.conn_type, DatastoreHook.hook_name)
    assert set(info["config"]["parallelrun"]["options"]) == {
        "models_cache",
        "models_cache_bytes",
        "models_root",
        "storage_root",
    }


@pytest.fixture(scope="module")
def built_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the built wheel is unpacked in: what pip makes of it, without asking an index."""
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(_ROOT)]
    built = subprocess.run(argv, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def _providers(airflow_home: Path, python_path: Path | None) -> list[dict[str, str]]:
    environment = {**os.environ, "AIRFLOW_HOME": str(airflow_home)}
    environment.pop("PYTHONPATH", None)
    if python_path is not None:
        environment["PYTHONPATH"] = str(python_path)
    argv = [sys.executable, "-m", "airflow", "providers", "list", "--output", "json"]
    listed = subprocess.run(argv, env=environment, cwd=airflow_home, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    providers: list[dict[str, str]] = json.loads(listed.stdout[listed.stdout.index("[") :])
    return providers


def test_airflow_lists_the_editable_install(tmp_path: Path) -> None:
    (found,) = [item for item in _providers(tmp_path, None) if item["package_name"] == _PACKAGE]
    assert found["version"] == airflow_parallelrun.__version__


def test_airflow_lists_the_built_install(built_install: Path, tmp_path: Path) -> None:
    # PYTHONPATH comes before the editable install, so this is the built one.
    (found,) = [item for item in _providers(tmp_path, built_install) if item["package_name"] == _PACKAGE]
    assert found["version"] == airflow_parallelrun.__version__
    assert (built_install / "airflow_parallelrun" / "py.typed").is_file()
