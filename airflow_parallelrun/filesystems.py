# SPDX-License-Identifier: Apache-2.0
"""From a URL to the fsspec file system behind it, and the path there.

``abfs://datastore@container/path`` is what lies at ``container/path`` for the connection ``datastore``, as
Airflow's ObjectStoragePath spells it; without a connection fsspec's driver looks for credentials itself.
A connection comes from whoever runs the engine (:func:`provided`; in Airflow the hooks), or else from the
environment variable ``PARALLELRUN_CONNECTION_<NAME>``: a JSON object of the driver's options.

Listings never come from a cache, and what is said about an error has no secret of a connection in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_URL = re.compile(r"(?:[A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]*://")
LOCAL_SCHEMES = ("file://", "local://")
_CONNECTION = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/@:]+)@([^/]*)(.*)", re.DOTALL)
# abfs://container@account.dfs.core.windows.net/path is Azure's own spelling: no connection there.
_ACCOUNT = re.compile(r"[^.]+\.(?:dfs|blob)\..+")
_ACCOUNT_URL = re.compile(r"[a-z]+://[^/@]+@([^./]+\.(?:dfs|blob)\.[^/]+)")
# Where a URL has user@host: a connection only if there is one of that name.
_HAS_USERS = frozenset({"sftp", "ssh", "ftp", "smb", "hdfs", "http", "https", "webhdfs"})

_EXTRAS = {
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "azure"),
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("sftp", "ssh"), "sftp"),
}
# Shorter texts stand in messages by chance.
SHORTEST_SECRET = 6
_SIGNATURE = re.compile(r"((?:sig|signature|token)=)[^&\s'\"]+", re.IGNORECASE)
_SECRET_OPTION = re.compile(r"key|secret|token|password|credential|connection_string|sas", re.IGNORECASE)


class Location(NamedTuple):
    """A place in a store.

    :param fs: the fsspec file system; any thread may use it
    :param path: the path there
    :param prefix: what stands before a path in a URL, such as ``abfs://datastore@``
    :param account: of Azure's own spelling, the host behind the container
    """

    fs: Any
    path: str
    prefix: str
    account: str = ""

    def url(self, path: str) -> str:
        """Return the URL of a path of the same file system."""
        if self.account:
            container, slash, rest = path.partition("/")
            path = f"{container}@{self.account}{slash}{rest}"
        return self.prefix + path


def is_remote(path: str) -> bool:
    """Whether a path is a URL of something other than the local file system."""
    return bool(_URL.match(path)) and not path.startswith(LOCAL_SCHEMES)


def variable(connection: str) -> str:
    """Return the environment variable that has a connection."""
    return "PARALLELRUN_CONNECTION_" + re.sub(r"\W", "_", connection).upper()


def connection_of(url: str) -> tuple[str, str] | None:
    """Return the scheme and the name of a URL's connection; None where it has none.

    Where a URL may have a user there, it is the name of a connection if there is one of that name.
    """
    match = _CONNECTION.fullmatch(url)
    if match is None or not is_remote(url) or _ACCOUNT.fullmatch(match[3]):
        return None
    return match[1], match[2]


def names_account(url: str) -> bool:
    """Whether a URL is in Azure's own spelling, with a storage account behind the container."""
    return bool(_ACCOUNT_URL.match(url))


def has_users(scheme: str) -> bool:
    """Whether what stands before the @ of a URL may be a user."""
    return scheme in _HAS_USERS


class _Provided:
    """The file systems of this process, each made once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[tuple[Any, str], Any] = {}
        self.secrets: set[str] = set()

    def get(self, key: tuple[Any, str]) -> Any:
        with self._lock:
            return self._made.get(key)

    def replace(self, made: Mapping[tuple[Any, str], Any], secrets: Iterable[str]) -> None:
        with self._lock:
            self._made.update(made)
            self.secrets.update(secret for secret in secrets if len(secret) >= SHORTEST_SECRET)

    def remove(self, keys: Iterable[tuple[str, str]]) -> None:
        with self._lock:
            for key in keys:
                self._made.pop(key, None)


_provided = _Provided()


@contextlib.contextmanager
def provided(made: Mapping[tuple[str, str], Any], secrets: Iterable[str] = ()) -> Iterator[None]:
    """Give this process the file systems of connections.

    :param made: each by scheme and name of the connection
    :param secrets: texts that no message may have in it; they stay so for as long as the process lives
    """
    for fs in made.values():
        _prepared(fs)
    _provided.replace(made, secrets)
    try:
        yield
    finally:
        _provided.remove(made)


def locate(url: str) -> Location:
    """Return where a URL leads to.

    :raises ConfigurationError: for a connection that nobody knows, and for a driver that is not installed
    :raises InvalidValueError: for what is no URL that fsspec knows
    :raises NotSupportedError: for a chained URL
    """
    if "::" in url:
        raise NotSupportedError(f"the chained URL {url!r}", "Give the URL of the files themselves.")
    key = connection_of(url)
    match = _CONNECTION.fullmatch(url)
    if key is not None and match is not None:
        fs = _provided.get(key) or _from_environment(key)
        if fs is not None:
            bare = f"{match[1]}://{match[3]}{match[4]}"
            return Location(fs, _stripped(fs, bare), f"{match[1]}://{match[2]}@")
        if not has_users(key[0]):
            raise unknown(key)
    return _without_connection(url)


def is_known(key: tuple[str, str]) -> bool:
    """Whether this process has a connection, by scheme and name."""
    return _provided.get(key) is not None or variable(key[1]) in os.environ


def unknown(key: tuple[str, str]) -> ConfigurationError:
    """Return what it means that nobody knows a connection, by scheme and name."""
    return ConfigurationError(
        f"there is no connection {key[1]!r}: make an Airflow connection of that name, or set "
        f"{variable(key[1])} to a JSON object of the options that fsspec's {key[0]} takes."
    )


def driver_missing(url: str, error: Exception) -> ConfigurationError:
    """Return what it means that a driver cannot be imported."""
    scheme = url.partition("://")[0]
    extra = _EXTRAS.get(scheme)
    install = f": pip install 'airflow-provider-parallelrun[{extra}]'" if extra else ""
    return ConfigurationError(f"{url!r} needs a driver that is not installed ({error}){install}")


def keep_secret(secrets: Iterable[str]) -> None:
    """Have no message show these texts, for as long as the process lives."""
    _provided.replace({}, secrets)


def hide(text: str) -> str:
    """Return a text without the secrets of connections."""
    for secret in sorted(_provided.secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _SIGNATURE.sub(r"\1***", text)


def secrets_of(options: Any) -> Iterator[str]:
    """Yield the texts among a driver's options that are secret by their name, at any depth."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from secrets_of(value)
        elif isinstance(value, str) and _SECRET_OPTION.search(str(name)):
            yield value
            # A connection string's key alone is as secret as the whole.
            for part in value.split(";"):
                if "Key=" in part or "Signature=" in part:
                    yield part.partition("=")[2]
            # So is what stands in a key that is a JSON object as text.
            with contextlib.suppress(ValueError):
                inner = json.loads(value)
                if isinstance(inner, dict):
                    yield from secrets_of(inner)


def _from_environment(key: tuple[str, str]) -> Any:
    text = os.environ.get(variable(key[1]))
    if text is None:
        return None
    rule = f"a JSON object of the options that fsspec's {key[0]} takes"
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise InvalidValueError(variable(key[1]), "(hidden)", rule)
    fs = make_filesystem(key[0], options)
    _provided.replace({key: fs}, secrets_of(options))
    return fs


def make_filesystem(scheme: str, options: Mapping[str, Any]) -> Any:
    """Make a file system of its own of a driver's options.

    :raises ConfigurationError: when the driver is not installed, or does not take the options
    """
    import fsspec

    try:
        return _prepared(fsspec.filesystem(scheme, skip_instance_cache=True, **options))
    except ImportError as error:
        raise driver_missing(f"{scheme}://", error) from error
    except Exception as error:  # noqa: BLE001 - every driver raises errors of its own
        # It may show what it was given.
        keep_secret(secrets_of(options))
        why = hide(f"{type(error).__name__}: {error}")
        raise ConfigurationError(f"fsspec's {scheme} cannot be made of these options: {why}") from None


def _without_connection(url: str) -> Location:
    import fsspec
    from fsspec.core import split_protocol

    scheme = split_protocol(url)[0]
    try:
        driver = fsspec.get_filesystem_class(scheme)
        options = driver._get_kwargs_from_urls(url)
        key = (driver, repr(sorted(options.items())))
        fs = _provided.get(key)
        if fs is None:
            fs = _prepared(driver(skip_instance_cache=True, **options))
            _provided.replace({key: fs}, ())
    except ImportError as error:
        raise driver_missing(url, error) from error
    except ValueError as error:
        raise InvalidValueError("path", url, f"a URL that fsspec knows ({hide(str(error))})") from error
    path = _stripped(fs, url)
    account = _ACCOUNT_URL.match(url)
    if account is not None:
        return Location(fs, path, f"{scheme}://", account[1])
    # Not what the driver makes of a path again: some leave out the host.
    if "://" in path:
        return Location(fs, path, "")
    prefix = url.rstrip("/").removesuffix(path)
    return Location(fs, path, prefix if "://" in prefix else f"{scheme}://")


def _stripped(fs: Any, url: str) -> str:
    path = fs._strip_protocol(url)
    return str(path[0] if isinstance(path, list) else path)


def _prepared(fs: Any) -> Any:
    """Have a file system ask its store each time, and ask again soon.

    What another process has made must be seen at once. Azure's client waits 15 s before it asks again where
    a connection is lost: a node would stand still for as long.
    """
    from fsspec.dircache import DirCache

    fs.dircache = DirCache(use_listings_cache=False)
    client = getattr(fs, "service_client", None)
    policy: Any = getattr(getattr(client, "_config", None), "retry_policy", None)
    if hasattr(policy, "initial_backoff"):
        policy.initial_backoff, policy.increment_base, policy.random_jitter_range = 0.5, 2, 0.5
    return fs
