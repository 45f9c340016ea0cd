# SPDX-License-Identifier: Apache-2.0
"""Make ``.venv`` with the pinned set; standard library only, as it runs before anything is installed.

    python demo/install.py .venv examples dev

uv does the work, as it is several times as fast as pip; pip fetches it. uv does not read pip's settings, so
those that say where packages come from are handed over, unless uv has its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.9"
# It wants older versions of some things than Airflow takes: it has a folder of its own.
MLFLOW = "mlflow-skinny==3.17.2"

# pip's setting, uv's variable, what separates several values there.
_HANDED_OVER = (
    ("index-url", "UV_DEFAULT_INDEX", " "),
    ("extra-index-url", "UV_INDEX", " "),
    ("find-links", "UV_FIND_LINKS", ","),
    ("trusted-host", "UV_INSECURE_HOST", " "),
    ("cert", "SSL_CERT_FILE", " "),
    ("no-index", "UV_NO_INDEX", " "),
)


class StepFailedError(RuntimeError):
    """A step ended with an error; its output was printed."""


def main(folder: str, *extras: str) -> int:
    """Make or update the virtual environment in ``folder`` with the project and its ``extras``.

    The extra ``mlflow`` goes to ``<folder>/mlflow``, for tests that put that behind their path.
    """
    target = Path(folder).resolve()
    python, uv = target / "bin" / "python", target / "bin" / "uv"
    try:
        # Without pip it is what an interrupted set-up left.
        if not (python.exists() and (target / "bin" / "pip").exists()):
            _step("create .venv", lambda: venv.create(target, symlinks=True, with_pip=True))
        if not uv.exists() or _version(uv) != UV.partition("==")[2]:
            _step(f"fetch {UV}", lambda: _run([str(python), "-m", "pip", "install", "--quiet", UV]))
        install = [str(uv), "pip", "install", "--python", str(python), "--compile-bytecode"]
        pinned = [extra for extra in extras if extra != "mlflow"]
        project = ["-c", "constraints.txt", "-e", f".[{','.join(pinned)}]"]
        environment = uv_environment(pip_settings(python), os.environ)
        _step(
            f"install the pinned set ({', '.join(pinned)})", lambda: _run([*install, *project], environment)
        )
        if "mlflow" in extras:
            beside = ["--target", str(target / "mlflow"), "--overrides", "constraints.txt", MLFLOW]
            _step(f"install {MLFLOW} beside it", lambda: _run([*install, *beside], environment))
    except (StepFailedError, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _version(uv: Path) -> str:
    return subprocess.run([str(uv), "--version"], capture_output=True, text=True, check=True).stdout.split()[
        1
    ]


def pip_settings(python: Path) -> dict[str, str]:
    """Return pip's settings from its files and its environment, the strongest last."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    settings: dict[str, str] = {}
    for wanted in ("global.", "install.", ":env:."):
        for line in listed.stdout.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(wanted):
                settings[name.removeprefix(wanted)] = value[1:-1]
    return settings


def uv_environment(settings: dict[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with pip's settings under uv's names; what uv has already stays."""
    result = dict(environment)
    for name, variable, separator in _HANDED_OVER:
        values = settings.get(name, "").replace("\\n", " ").split()
        if values:
            result.setdefault(variable, separator.join(values))
    # pip takes the best version of all places; uv would stop at the first place that has the package.
    result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return result


def _step(what: str, action: Callable[[], object]) -> None:
    print(f"  {what} … ", end="", flush=True)
    start = time.monotonic()
    try:
        action()
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - start:.0f} s", flush=True)


def _run(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise StepFailedError(f"{done.stdout.strip()}\n{argv[0]} ended with exit status {done.returncode}.")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
