# SPDX-License-Identifier: Apache-2.0
"""A real Airflow on this machine: SQLite, LocalExecutor, loopback only, everything in one folder."""

from __future__ import annotations

import atexit
import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

import httpx

from demo.airflow_client import AirflowClient
from demo.components import Components

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

# The rest of the caller's environment could change what Airflow does: AIRFLOW__*, proxies, Python options.
_PASSED_ON = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER")

_COMPONENTS = {
    "api-server": ["api-server", "--host", "127.0.0.1"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
}
# A component that gives up on a locked database ends itself. The API server does not: it answers 500 after
# SQLite's 5 s, and has to, since it may be waiting for itself (airflow_client.py says how).
_DATABASE_PATIENCE_S = {"scheduler": 60, "dag-processor": 60}
# As the health page calls them.
_HEARTBEATS = {"scheduler": "scheduler", "dag-processor": "dag_processor"}


class LocalAirflowError(RuntimeError):
    """Airflow did not start; the message ends with the cause."""


class LocalAirflow:
    """An Airflow of its own: API server, scheduler and dag processor, stopped on leaving the context.

    :param home: its AIRFLOW_HOME: database, logs, secrets, pid files.
    :param dags_folder: where the DAG files are.
    :param environment: further variables; they win over the defaults here.
    :param parallelism: how many tasks run at once; each costs an idle process of about 20 MB.

    *What it does not do:* run deferred tasks (there is no triggerer).
    """

    user = "admin"

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        parallelism: int = 3,
    ) -> None:
        self.home = home.resolve()
        self.dags_folder = dags_folder.resolve()
        self.parallelism = parallelism
        self._extra = dict(environment or {})
        self._components = Components(self.home / "run", self.home / "logs")
        self._client: AirflowClient | None = None
        self._port = self._stored_port()
        self._started = datetime.min.replace(tzinfo=UTC)
        self._replaced_handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the UI and the REST API are."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def password(self) -> str:
        """The password of ``user``."""
        return str(self._secrets()["password"])

    @property
    def client(self) -> AirflowClient:
        """A REST client, logged in."""
        if self._client is None:
            self._client = AirflowClient(self.url, self.user, self.password)
        return self._client

    def is_running(self) -> bool:
        """Tell whether all components of this home are alive, whoever started them."""
        alive = {component.name for component in self._components.listed() if component.is_alive()}
        return alive == set(_COMPONENTS)

    def start(
        self, dag_ids: Sequence[str] = (), *, detached: bool = False, timeout_s: float = 120.0
    ) -> AirflowClient:
        """Start all components and wait until they are healthy and the DAGs are listed.

        :param dag_ids: DAGs that must have been parsed since this start.
        :param detached: leave it running when this process ends.
        :raises LocalAirflowError: when a component dies, a DAG file cannot be imported, or the time is up.
        """
        self.stop()
        if not detached:
            self._stop_with_this_process()
        try:
            self._migrate()
            self._port = _free_port()
            self._write_private("run/port", str(self._port))
            self._started = datetime.now(UTC)
            for name in _COMPONENTS:
                self._start_component(name)
            deadline = time.monotonic() + timeout_s
            healthy = partial(self._healthy, self._started, _HEARTBEATS.values())
            self._wait(healthy, "Airflow is not healthy", deadline)
            self.wait_for_dags(dag_ids, timeout_s=deadline - time.monotonic())
        except BaseException:
            self.stop()
            raise
        return self.client

    def wait_for_dags(
        self, dag_ids: Sequence[str], *, since: datetime | None = None, timeout_s: float = 60.0
    ) -> None:
        """Wait until the DAGs are listed, parsed after ``since`` (else after the start).

        :raises LocalAirflowError: at once when a DAG file has an import error; when the time is up.
        """
        deadline = time.monotonic() + timeout_s
        since = since or self._started
        for dag_id in dag_ids:
            self._wait(partial(self._listed, dag_id, since), f"DAG {dag_id} is not listed", deadline)

    def kill(self, name: str, *, family: bool = False) -> None:
        """End one component with SIGKILL, as a crash does; :meth:`restart` brings it back.

        :param name: ``api-server``, ``scheduler`` or ``dag-processor``.
        :param family: with what it started; else that goes on, as the task processes of a scheduler do.
        :raises KeyError: when it does not run.
        """
        self._components.kill(name, family=family)

    def restart(self, name: str, timeout_s: float = 120.0) -> None:
        """Start a component again that was killed, with the same port and secrets; wait until it is healthy.

        :raises LocalAirflowError: when it dies, or the time is up.
        """
        moment = datetime.now(UTC)
        self._start_component(name, again=True)
        healthy = partial(self._healthy, moment, [_HEARTBEATS[name]] if name in _HEARTBEATS else [])
        self._wait(healthy, f"Airflow's {name} is not healthy again", time.monotonic() + timeout_s)

    def check_alive(self) -> None:
        """Make sure that every component still runs.

        :raises LocalAirflowError: with the end of its log, when one has ended.
        """
        for component in self._components.listed():
            if not component.is_alive():
                log = self._components.log(component.name)
                raise LocalAirflowError(f"Airflow's {component.name} ended.\n{_tail(log)}")

    def stop(self) -> bool:
        """Stop all components and everything they started; return whether anything was running."""
        if self._client is not None:
            self._client.close()
            self._client = None
        was_running = self._components.stop()
        # Not before: when a signal interrupts the lines above, they run again at exit.
        atexit.unregister(self.stop)
        for number, handler in self._replaced_handlers.items():
            signal.signal(number, handler)
        self._replaced_handlers.clear()
        return was_running

    def environment(self, component: str = "") -> dict[str, str]:
        """Return all the environment of a component or a command; it is Airflow's whole configuration."""
        keys = self._secrets()
        database = f"sqlite:///{self.home / 'airflow.db'}"
        if component in _DATABASE_PATIENCE_S:
            database += f"?timeout={_DATABASE_PATIENCE_S[component]}"
        settings: dict[str, dict[str, object]] = {
            "api": {
                "base_url": self.url,
                "host": "127.0.0.1",
                "port": self._port,
                "secret_key": keys["secret_key"],
            },
            "api_auth": {"jwt_secret": keys["jwt_secret"]},
            "core": {
                "dags_are_paused_at_creation": False,
                "dags_folder": self.dags_folder,
                "execution_api_server_url": f"{self.url}/execution/",
                "executor": "LocalExecutor",
                "fernet_key": keys["fernet_key"],
                # The default asks the name server.
                "hostname_callable": "socket.gethostname",
                "load_examples": False,
                "min_serialized_dag_update_interval": 0,
                "parallelism": self.parallelism,
                "simple_auth_manager_passwords_file": self.home / "passwords.json",
                "simple_auth_manager_users": f"{self.user}:admin",
            },
            "dag_processor": {
                "bundle_refresh_check_interval": 1,
                "parsing_processes": 1,
                "refresh_interval": 5,
            },
            "database": {"sql_alchemy_conn": database},
            "logging": {"base_log_folder": self.home / "logs" / "tasks", "colored_console_log": False},
            "scheduler": {"scheduler_heartbeat_sec": 1, "scheduler_idle_sleep_time": 0.1},
            "usage_data_collection": {"enabled": False},
        }
        configuration = {
            f"AIRFLOW__{section.upper()}__{option.upper()}": str(value)
            for section, options in settings.items()
            for option, value in options.items()
        }
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return {**passed_on, "AIRFLOW_HOME": str(self.home), **configuration, **self._extra}

    def _migrate(self) -> None:
        installed = version("apache-airflow-core")
        mark = self.home / "database-version"
        if (self.home / "airflow.db").exists() and mark.exists() and mark.read_text() == installed:
            return
        log = self._components.logs / "migrate.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            argv = [sys.executable, "-m", "airflow", "db", "migrate"]
            environment = self.environment()
            failed = subprocess.run(
                argv, env=environment, cwd=self.home, stdout=output, stderr=output
            ).returncode
        if failed:
            raise LocalAirflowError(f"airflow db migrate failed.\n{_tail(log)}")
        mark.write_text(installed)

    def _start_component(self, name: str, *, again: bool = False) -> None:
        argv = [sys.executable, "-m", "airflow", *_COMPONENTS[name]]
        self._components.start(name, argv, self.environment(name), self.home, again=again)

    def _healthy(self, since: datetime, components: Iterable[str]) -> bool:
        """Tell whether the API server answers, and these components have told it since that they live."""
        try:
            health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5, trust_env=False).json()
            # Its first request takes seconds; it shall not be the first task's.
            httpx.get(f"{self.url}/execution/health", timeout=30, trust_env=False).raise_for_status()
        except (httpx.HTTPError, ValueError):
            return False
        return health["metadatabase"]["status"] == "healthy" and all(
            _after(health[name][f"latest_{name}_heartbeat"], since) for name in components
        )

    def _listed(self, dag_id: str, since: datetime) -> bool:
        for error in self.client.import_errors():
            if _after(error["timestamp"], since):
                raise LocalAirflowError(f"Airflow cannot import {error['filename']}.\n{error['stack_trace']}")
        page = self.client.request("GET", "/dags", params={"dag_id_pattern": dag_id})
        return any(
            dag["dag_id"] == dag_id and not dag["is_stale"] and _after(dag["last_parsed_time"], since)
            for dag in page["dags"]
        )

    def _wait(self, ready: Callable[[], bool], complaint: str, deadline: float) -> None:
        while not ready():
            self.check_alive()
            if time.monotonic() > deadline:
                raise LocalAirflowError(f"{complaint} in time; look into {self._components.logs}.")
            time.sleep(0.25)

    def _stop_with_this_process(self) -> None:
        atexit.register(self.stop)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) == signal.SIG_DFL:
                    self._replaced_handlers[number] = signal.signal(number, _exit)

    def _secrets(self) -> dict[str, Any]:
        path = self.home / "secrets.json"
        if not path.exists():
            made = {name: secrets.token_urlsafe(32) for name in ("jwt_secret", "secret_key")}
            made["fernet_key"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            made["password"] = secrets.token_urlsafe(12)
            self._write_private("passwords.json", json.dumps({self.user: made["password"]}))
            self._write_private("secrets.json", json.dumps(made))
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def _write_private(self, name: str, text: str) -> None:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    def _stored_port(self) -> int:
        path = self.home / "run" / "port"
        return int(path.read_text()) if path.exists() else 0


def _exit(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _after(moment: str | None, start: datetime) -> bool:
    return moment is not None and datetime.fromisoformat(moment) >= start


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path, lines: int = 15) -> str:
    text = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([*text[-lines:], f"The full log is {log}."])
