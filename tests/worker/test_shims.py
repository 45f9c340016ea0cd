# SPDX-License-Identifier: Apache-2.0
"""The original's import names: there when the real packages are not, and never in their way."""

from __future__ import annotations

import importlib
import sys
import textwrap

import pytest

from airflow_parallelrun.worker import shims


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """The shims in this interpreter, which forgets them again."""

    def forget():
        for name in [name for name in sys.modules if name.split(".")[0] in ("azureml", "azureml_user")]:
            del sys.modules[name]

    forget()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    asked = []

    def ask(subject, arguments):
        asked.append((subject, arguments))
        return f"/models/{arguments['name']}"

    settings = shims.EntryScriptSettings("process003", "/logs", str(tmp_path / "output"))
    shims.install(ask, settings)
    yield asked
    forget()


def run(text):
    space = {}
    exec(textwrap.dedent(text), space)
    return space


@pytest.mark.parametrize("module", ["azureml.core", "azureml.core.model"])
@pytest.mark.parametrize(
    ("call", "version"),
    [("'net'", None), ("'net', 2", 2), ("model_name='net', version=2", 2), ("'net', _workspace=None", None)],
)
def test_model_paths_are_asked_for(installed, module, call, version):
    space = run(f"from {module} import Model\npath = Model.get_model_path({call})")
    assert space["path"] == "/models/net"
    assert installed == [("model_path", {"name": "net", "version": version})]


def test_every_way_to_import_leads_to_the_same(installed):
    space = run("""
        import azureml.core
        import azureml.core.model as model
        from azureml.core import Model
        from azureml.core.model import Model as Again
    """)
    assert space["azureml"].core.Model is space["model"].Model is space["Model"] is space["Again"]


def test_entry_script_is_one_object_that_knows_the_process(installed, tmp_path):
    space = run("""
        from azureml_user.parallel_run import EntryScript
        one, other = EntryScript(), EntryScript()
        shown = one.agent_name, one.log_dir, one.output_dir, one.logger.name
    """)
    assert space["one"] is space["other"]
    assert space["shown"] == ("process003", "/logs", str(tmp_path / "output"), "entry_script")
    assert (tmp_path / "output").is_dir()


@pytest.mark.parametrize(
    "statement",
    ["from azureml.core import Workspace", "import azureml.data", "from azureml.core.run import Run",
     "from azureml.core.model import InferenceConfig"],
)  # fmt: skip
def test_what_is_not_offered_says_so(installed, statement):
    with pytest.raises(ImportError, match=r"not part of what airflow_parallelrun offers.*Install the real"):
        run(statement)


def test_an_optional_import_can_be_caught_and_asked_for(installed):
    run("""
        import azureml.core
        try:
            from azureml.core import Dataset
        except ImportError:
            Dataset = None
        assert not hasattr(azureml.core, "Workspace")
    """)


def test_unrelated_modules_are_none_of_our_business(installed):
    with pytest.raises(ModuleNotFoundError, match="No module named 'azure_something'"):
        run("import azure_something")


def test_a_real_package_comes_first(installed, tmp_path):
    core = tmp_path / "azureml" / "core"
    core.mkdir(parents=True)
    (tmp_path / "azureml" / "__init__.py").write_text("")
    (core / "__init__.py").write_text("class Model: real = True\nclass Workspace: pass\n")
    (tmp_path / "azureml_user").mkdir()
    (tmp_path / "azureml_user" / "__init__.py").write_text("")
    (tmp_path / "azureml_user" / "parallel_run.py").write_text("class EntryScript: real = True\n")
    space = run("""
        from azureml.core import Model, Workspace
        from azureml_user.parallel_run import EntryScript
    """)
    assert space["Model"].real
    assert space["EntryScript"].real
    assert installed == []


def test_what_a_real_package_lacks_is_its_own_to_say(installed, tmp_path):
    (tmp_path / "azureml").mkdir()
    (tmp_path / "azureml" / "__init__.py").write_text("")
    (tmp_path / "azureml" / "core.py").write_text("")
    with pytest.raises(ImportError, match="cannot import name 'Model'"):
        run("from azureml.core import Model")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'azureml\.data'"):
        run("import azureml.data")


def test_beside_a_part_of_the_real_package_the_rest_is_offered(installed, tmp_path):
    # azureml is a namespace that several real packages share; azureml-mlflow has no azureml.core.
    (tmp_path / "azureml" / "mlflow").mkdir(parents=True)
    (tmp_path / "azureml" / "mlflow" / "__init__.py").write_text("REAL = True\n")
    space = run("""
        import azureml.mlflow
        from azureml.core import Model
        path = Model.get_model_path("net")
    """)
    assert space["azureml"].mlflow.REAL
    assert space["path"] == "/models/net"
