# SPDX-License-Identifier: Apache-2.0
"""``--side-input`` and ``--model``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from storage_servers import ObjectStore

READ = """
import os, sys
def run(mini_batch):
    with open(os.environ["labels"]) as file:
        labels = file.read()
    model = os.listdir(os.environ["AZUREML_MODEL_DIR"])
    return [f"{labels} {sys.argv[2] == os.environ['labels']} {model}" for _ in mini_batch]
"""
ARGUMENTS = ("--", "--labels", "{side_input:labels}")
ROW = "zero one True ['weights.bin']"


@pytest.mark.parametrize("where", ["local", "store"])
def test_a_script_has_them(work: Any, where: str, s3_store: ObjectStore) -> None:
    (work.folder / "labels.txt").write_text("zero one")
    (work.folder / "weights.bin").write_text("w")
    labels, root = "labels.txt", "models"
    if where == "store":
        labels, root = s3_store.write("labels.txt", b"zero one"), f"{s3_store.url}/models"
    work.variables.update({**s3_store.environment, "PARALLELRUN_MODELS_CACHE": str(work.folder / "cache")})
    assert work.command("models", "register", "net", "weights.bin", "--models-root", root).status == 0
    options = ("--side-input", f"labels={labels}", "--model", "net", "--models-root", root)
    ended = work.run(work.script(READ), *options, *ARGUMENTS)
    assert ended.status == 0, ended.err
    assert work.rows() == [ROW] * 4
    assert s3_store.secret not in ended.out + ended.err
    ended = work.command("check", work.script(READ), "--input", "input", *options, *ARGUMENTS)
    assert (ended.status, ended.err) == (0, "")
    assert f"  {ROW}\n" in ended.out


def test_what_cannot_be_one(work: Any) -> None:
    script = work.script(READ)
    (work.folder / "labels.txt").write_text("zero one")
    for command in ("run", "check"):
        output = ("--output", "output") if command == "run" else ()
        given = (command, script, "--input", "code", *output)
        ended = work.command(*given, "--side-input", "PATH=labels.txt")
        assert (ended.status, "a meaning of its own" in ended.err) == (2, True)
        ended = work.command(*given, "--side-input", "words=labels.txt", *ARGUMENTS)
        assert ended.status == 2
        assert "name the side input 'labels', and the run has words" in ended.err
        ended = work.command(*given, "--model", "net:latest")
        assert (ended.status, "--model must be a registered model" in ended.err) == (2, True)
