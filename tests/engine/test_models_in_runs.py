# SPDX-License-Identifier: Apache-2.0
"""The model that a configuration names, and those that a script asks for, of a folder and of a store."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_parallelrun.engine.node import Node
from airflow_parallelrun.engine.split import split
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InterruptedRunError,
    InvalidValueError,
    ModelNotFoundError,
    StorageError,
)
from airflow_parallelrun.filesystems import locate
from airflow_parallelrun.models import ModelRegistry, reference
from airflow_parallelrun.models.cache import model_cache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Job
    from storage_servers import ObjectStore

# Returns what the folder of the model has in it, and the content of the one file.
FROM_FOLDER = """
import os
def run(mini_batch):
    folder = os.environ["AZUREML_MODEL_DIR"]
    [name] = os.listdir(folder)
    return [f"{name} {open(os.path.join(folder, name)).read()}" for _ in mini_batch]
"""
# A secret without its last letter: the script itself must not have all of it.
LOOKS_FOR_SECRETS = """
import os
def run(mini_batch):
    seen = repr(dict(os.environ)) + open("/proc/self/cmdline").read()
    content = open(os.environ["AZUREML_MODEL_DIR"] + "/net.bin").read()
    return [content + ", a secret: " + str({secret!r} in seen) for _ in mini_batch]
"""
BY_NAME = """
from azureml.core import Model
def init():
    global content
    content = open(Model.get_model_path("net")).read()
def run(mini_batch):
    return [content for _ in mini_batch]
"""


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PARALLELRUN_MODELS_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    model_cache().close()


def register(root: str | Path, folder: Path, content: str) -> None:
    (folder / "net.bin").write_text(content)
    ModelRegistry(root).register(folder / "net.bin", "net")


def plan(job: Job, script: str, root: str | Path | None, files: int = 1, **config: Any) -> Job:
    job.files(files)
    source = job.folder / "source"
    source.mkdir(exist_ok=True)
    (source / "score.py").write_text(script)
    request = job.request(**config)
    job.plan = split(replace(request, models_root=None if root is None else str(root)))
    return job


def test_every_node_has_the_version_that_was_the_latest_at_the_split(job: Job, tmp_path: Path) -> None:
    root = tmp_path / "models"
    register(root, tmp_path, "one")
    columns = ["model_version"]
    plan(job, FROM_FOLDER, root, files=4, node_count=2, model="net", provenance_columns=columns)
    assert job.plan.config.model == "net:1"
    job.node(0)
    register(root, tmp_path, "two")
    job.node(1)
    job.reduce()
    assert job.rows() == ["net.bin one net:1"] * 4


def test_a_version_may_be_named_and_the_users_own_variable_counts(job: Job, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for content in ("one", "two"):
        register(root, tmp_path, content)
    assert plan(job, FROM_FOLDER, root, model="net:1").run().verdict == "succeeded"
    assert job.rows() == ["net.bin one"]
    own = {"AZUREML_MODEL_DIR": str(root / "net" / "2" / "data")}
    job.plan = split(replace(job.request(environment_variables=own, output="other"), models_root=str(root)))
    job.run()
    assert (job.folder / "other" / "parallel_run_step.txt").read_text() == "net.bin two\n"


def test_a_model_that_there_is_not_is_found_by_split(job: Job, tmp_path: Path) -> None:
    root = tmp_path / "models"
    register(root, tmp_path, "one")
    for model in ("nat", "net:2"):
        with pytest.raises(ModelNotFoundError, match=f"the model '{model}' is not registered in '{root}'"):
            plan(job, FROM_FOLDER, root, model=model)
    with pytest.raises(ConfigurationError, match="model is 'net', and no model registry is configured"):
        plan(job, FROM_FOLDER, None, model="net")
    assert not job.output.exists()


@pytest.mark.parametrize(
    "model", ["", "net:", "net:0", "net:latest", "a/b", "net:1\n", "models:/net", "models:/net/0", 3]
)
def test_what_names_no_model(job: Job, model: Any) -> None:
    with pytest.raises(InvalidValueError, match="model must be a registered model such as 'mnist'"):
        job.request(model=model)


def test_a_store_s_model_is_fetched_and_its_processes_have_no_secret(
    job: Job, object_store: ObjectStore, tmp_path: Path, cache_folder: Path
) -> None:
    root = f"{object_store.url}/models"
    register(root, tmp_path, "one")
    plan(job, LOOKS_FOR_SECRETS.format(secret=object_store.secret[:-1]), root, model="net")
    register(root, tmp_path, "two")
    job.run()
    assert job.rows() == ["one, a secret: False"]
    assert [path.name.partition("-")[0] for path in cache_folder.iterdir() if path.is_dir()] == ["net"]


def test_who_asks_for_the_configured_model_gets_its_version(
    job: Job, s3_store: ObjectStore, tmp_path: Path
) -> None:
    root = f"{s3_store.url}/models"
    register(root, tmp_path, "one")
    plan(job, BY_NAME, root, files=3, model="net", provenance_columns=["model_version"])
    register(root, tmp_path, "two")
    job.run()
    assert job.rows() == ["one net:1"] * 3


def slowly(monkeypatch: pytest.MonkeyPatch, root: str, wait: Any) -> None:
    """Have the data of models wait for something."""
    fs = locate(root).fs
    cat_file = fs.cat_file

    def slow(path: str, **options: Any) -> bytes:
        if "/data/" in path:
            wait()
        return bytes(cat_file(path, **options))

    monkeypatch.setattr(fs, "cat_file", slow)


def test_what_is_fetched_for_a_script_is_no_time_of_its_init(
    job: Job, s3_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"{s3_store.url}/models"
    register(root, tmp_path, "one")
    plan(job, BY_NAME, root, files=4, init_timeout=2)
    fetched = []
    slowly(monkeypatch, root, lambda: fetched.append(time.sleep(3)))
    job.run()
    assert job.rows() == ["one"] * 4
    assert len(fetched) == 1


@pytest.mark.parametrize(("script", "model"), [(FROM_FOLDER, "net"), (BY_NAME, None)])
def test_a_node_that_is_fetching_stops_when_it_is_asked_to(
    job: Job,
    s3_store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    model: str | None,
) -> None:
    root = f"{s3_store.url}/models"
    register(root, tmp_path, "one")
    plan(job, script, root, model=model)
    node, hanging = Node(job.plan.run_dir, 0), threading.Event()
    slowly(monkeypatch, root, lambda: node.request_stop() or hanging.wait(60))
    with pytest.raises(InterruptedRunError):
        node.run()
    assert not hanging.is_set()
    hanging.set()


def test_a_model_that_cannot_be_had_is_the_node_s_error(
    job: Job, s3_store: ObjectStore, tmp_path: Path
) -> None:
    root = f"{s3_store.url}/models"
    register(root, tmp_path, "one")
    plan(job, FROM_FOLDER, root, model="net")
    s3_store.write("models/net/1/data/net.bin", b"on3")
    with pytest.raises(StorageError, match=r"net\.bin: is not what was registered"):
        job.node()
    s3_store.write("models/net/1/data/net.bin", b"one")
    job.run()
    assert job.rows() == ["net.bin one"]


def test_without_mlflow_the_extra_is_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'airflow-provider-parallelrun\[mlflow\]'"):
        plan(job, FROM_FOLDER, None, model="models:/net/3")


@pytest.mark.filterwarnings("ignore:::sqlalchemy", "ignore:::mlflow")  # its own, about its own
def test_a_model_of_mlflow(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not among the pinned packages: it has a folder beside them; see demo/install.py.
    monkeypatch.setattr(sys, "path", [*sys.path, os.path.join(sys.prefix, "mlflow")])
    mlflow: Any = importlib.import_module("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    client = mlflow.MlflowClient()
    client.create_registered_model("net")
    for content in ("one", "two"):
        (tmp_path / content).mkdir()
        (tmp_path / content / "net.bin").write_text(content)
        client.create_model_version("net", source=f"file://{tmp_path}/{content}")
    client.set_registered_model_alias("net", "champion", "1")
    assert reference.frozen("models:/net/latest", None) == "models:/net/2"
    for unknown in ("models:/net/3", "models:/nothing/1", "models:/nothing/latest", "models:/net@nobody"):
        with pytest.raises(ConfigurationError, match=f"has no model '{unknown}'"):
            reference.frozen(unknown, None)
    script = FROM_FOLDER.replace("open(os.path.join(folder, name))", "open(f'{folder}/{name}/net.bin')")
    plan(job, script, None, model="models:/net@champion", provenance_columns=["model_version"])
    job.run()
    assert job.rows() == ["net one models:/net/1"]
