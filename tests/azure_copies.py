# SPDX-License-Identifier: Apache-2.0
"""Azurite with the one request that it does not know: a block that the store copies from another blob.

What stands for it is a proxy, which reads the source by its URL alone, as Azure does, and puts the block. It
does not prove that Azure takes the request as it is signed.
"""

from __future__ import annotations

import datetime
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

from azure.storage.blob import BlobSasPermissions, generate_blob_sas
from faulty_proxy import Handler, Proxy, proxied

from demo.azurite import ACCOUNT, ACCOUNT_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faulty_proxy import Reply


@contextmanager
def copying(endpoint: str) -> Iterator[Proxy]:
    """Run the proxy before Azurite.

    :param endpoint: the URL of its account
    """
    with proxied(endpoint, lambda method, path: None, _Handler) as proxy:
        yield proxy


class _Handler(Handler):
    def ask(self, body: bytes) -> Reply:
        source = self.headers.get("x-ms-copy-source")
        if source is None:
            return super().ask(body)
        parts = urlsplit(source)
        version = {"x-ms-version": self.headers["x-ms-version"]}
        part = {**version, "x-ms-range": self.headers["x-ms-source-range"]}
        status, headers, data = self.forward("GET", f"{parts.path}?{parts.query}", b"", part)
        if status != 206:
            return status, headers, data
        blob = urlsplit(self.path)
        block = quote(parse_qs(blob.query)["blockid"][0], safe="")
        target = f"{blob.path}?comp=block&blockid={block}&{_signature(blob.path)}"
        return self.forward("PUT", target, data, version)


def _signature(path: str) -> str:
    _, _, container, name = path.split("/", 3)
    return generate_blob_sas(
        ACCOUNT,
        container,
        name,
        account_key=ACCOUNT_KEY,
        permission=BlobSasPermissions(write=True),
        expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1),
    )
