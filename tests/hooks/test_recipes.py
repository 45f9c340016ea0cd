# SPDX-License-Identifier: Apache-2.0
"""The lines of docs/storage.md that make a connection, each against a real store where one is here."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_parallelrun.filesystems import locate
from airflow_parallelrun.hooks.filesystems import connected
from demo.azurite import ACCOUNT, ACCOUNT_KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from storage_servers import ObjectStore

    Add: TypeAlias = Callable[[str, dict[str, str]], str]

_LINE = "airflow connections add "
_PAGE = Path(__file__).parents[2] / "docs" / "storage.md"
RECIPES = [line for line in _PAGE.read_text().splitlines() if line.startswith(_LINE)]


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Add:
    """Do what a recipe's line does, and return the connection's name."""

    def run(recipe: str, values: dict[str, str]) -> str:
        for placeholder, value in values.items():
            recipe = recipe.replace(placeholder, value)
        name, *arguments = shlex.split(recipe.removeprefix(_LINE))
        pairs = zip(arguments[::2], arguments[1::2], strict=True)
        fields = {option.removeprefix("--conn-"): value for option, value in pairs}
        connection = {"conn_type": fields.pop("type"), **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        return name

    return run


def _recipe(*marks: str) -> str:
    (found,) = [line for line in RECIPES if all(mark in line for mark in marks)]
    return found


def test_every_recipe_is_tried_here() -> None:
    assert len(RECIPES) == 7


@pytest.mark.parametrize(
    ("mark", "option", "value"),
    [("--conn-password KEY", "account_key", ACCOUNT_KEY), ("SAS_TOKEN", "sas_token", "?sv=1&sig=abcdefgh")],
    ids=["key", "signature"],
)
def test_an_azure_account(mark: str, option: str, value: str, add: Add) -> None:
    # Azurite speaks no HTTPS, which an account's name stands for.
    name = add(_recipe("wasb", mark), {"ACCOUNT": ACCOUNT, "KEY": value, "SAS_TOKEN": value})
    url = f"abfs://{name}@container/a"
    with connected([url]):
        fs = locate(url).fs
        assert (fs.account_name, getattr(fs, option)) == (ACCOUNT, value)


def test_azures_connection_string(azure_store: ObjectStore, add: Add) -> None:
    values = {"CONNECTION_STRING": azure_store.options["connection_string"]}
    _reads(azure_store, add(_recipe("wasb", "CONNECTION_STRING"), values))


@pytest.mark.parametrize("marks", [("--conn-type aws",), ("parallelrun_datastore", '"s3"')])
def test_s3(marks: tuple[str, ...], s3_store: ObjectStore, add: Add) -> None:
    endpoint = s3_store.options["client_kwargs"]["endpoint_url"]
    recipe = _recipe(*marks).replace('"REGION"', f'"REGION", "endpoint_url": "{endpoint}"')
    values = {
        "KEY_ID": s3_store.options["key"],
        "SECRET_KEY": s3_store.secret,
        "REGION": "eu-west-1",
        "ENDPOINT": endpoint,
        "BUCKET": s3_store.container,
    }
    _reads(s3_store, add(recipe, values))


def test_google(gcs_store: ObjectStore, add: Add) -> None:
    options = f'"options": {{"endpoint_url": "{gcs_store.options["endpoint_url"]}", '
    recipe = _recipe("parallelrun_datastore", '"gs"').replace('"options": {', options)
    _reads(gcs_store, add(recipe, {"PROJECT": "tests", "KEY_FILE": "anon"}))


def test_sftp(sftp_store: ObjectStore, add: Add) -> None:
    values = {
        "HOST": sftp_store.options["host"],
        "PORT": str(sftp_store.options["port"]),
        "USER": sftp_store.options["username"],
        "PASSWORD": sftp_store.secret,
    }
    _reads(sftp_store, add(_recipe("--conn-type sftp"), values))


def _reads(store: ObjectStore, name: str) -> None:
    store.write("digits/a", b"text")
    url = f"{store.scheme}://{name}@{store.container}/digits/a"
    with connected([url]):
        place = locate(url)
        assert place.fs.cat_file(place.path) == b"text"
