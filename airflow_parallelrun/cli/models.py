# SPDX-License-Identifier: Apache-2.0
"""``parallelrun models``: the registry of models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import InvalidValueError, UnknownNameError

from .parser import CommandParser, name_and_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_parallelrun.models import ModelRegistry

HELP = """\
usage: parallelrun models COMMAND …

The model registry: a folder, or its like in an object store, with one sub-folder for each model and version.

commands:
  register NAME PATH   copy a file or a folder into the registry, as the next version of NAME
  list                 every registered version
  path NAME[:VERSION]  where it is on this machine; the latest version unless one is given

The folder, or its URL, is --models-root, else the variable PARALLELRUN_MODELS_ROOT, else what Airflow's
configuration has as models_root in [parallelrun].
"""


def main(given: Sequence[str]) -> int:
    """Run ``parallelrun models`` and return its exit status."""
    if not given or given[0] in ("--help", "-h"):
        print(HELP, end="")
        return 0 if given else 2
    commands = {"register": _register, "list": _list, "path": _path}
    if given[0] not in commands:
        raise UnknownNameError("command", f"models {given[0]}", [f"models {name}" for name in commands])
    commands[given[0]](given[1:])
    return 0


def _register(given: Sequence[str]) -> None:
    parser = _parser("register", "Copies a file or a folder into the registry, as the next version of NAME.")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("path", metavar="PATH", help="a file stays a file, a folder a folder")
    parser.add_argument(
        "--tag",
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=VALUE",
        help="may be repeated",
    )
    parser.add_argument("--description", default=None, metavar="TEXT")
    parsed = parser.parse(given)
    model = _registry(parsed.models_root).register(
        parsed.path, parsed.name, tags=dict(parsed.tag), description=parsed.description
    )
    print(f"registered {model.name}:{model.version}")


def _list(given: Sequence[str]) -> None:
    parser = _parser("list", "Lists every registered version.")
    parser.add_argument("--json", action="store_true", help="one JSON array")
    parsed = parser.parse(given)
    models = _registry(parsed.models_root).list()
    if parsed.json:
        print(json.dumps([_as_dict(model) for model in models], indent=2))
        return
    for model in models:
        tags = " ".join(f"{name}={value}" for name, value in sorted((model.tags or {}).items()))
        print("  ".join(part for part in (f"{model.name}:{model.version}", tags, model.description) if part))


def _path(given: Sequence[str]) -> None:
    parser = _parser("path", "Prints where a model is on this machine; one in an object store is fetched.")
    parser.add_argument("model", metavar="NAME[:VERSION]")
    parsed = parser.parse(given)
    name, colon, version = parsed.model.partition(":")
    if colon and not version.isdecimal():
        raise InvalidValueError("NAME[:VERSION]", parsed.model, "a model's name, or NAME:NUMBER")
    print(_registry(parsed.models_root).path(name, int(version) if colon else None))


def _parser(command: str, description: str) -> CommandParser:
    parser = CommandParser(f"models {command}", description)
    parser.add_argument("--models-root", metavar="DIR", help="the registry's folder or URL")
    return parser


def _registry(root: str | None) -> ModelRegistry:
    from airflow_parallelrun.models import ModelRegistry, absolute_folder, models_root

    return ModelRegistry(absolute_folder(root) if root else models_root())


def _as_dict(model: Any) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "path": model.path,
        "tags": dict(model.tags or {}),
        "description": model.description,
    }
