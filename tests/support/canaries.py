"""Secrets that must not be found again, and the search for them in every byte that was written."""

from __future__ import annotations

import base64
import os
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from tests.support.drivers import TOKEN


def _canary(name: str, length: int = 40) -> str:
    return (name.encode().hex() + "c0ffee" * length)[:length]


NETRC = _canary("netrc")
ADDRESS = _canary("address")
ENVIRONMENT = {
    "WANDB_API_KEY": _canary("wandb"),
    "AWS_SECRET_ACCESS_KEY": _canary("secret") + "+/",
    "AWS_SESSION_TOKEN": _canary("session", 80),
    "HF_TOKEN": "hf_" + _canary("hf", 34),
}
SECRETS = {**ENVIRONMENT, "netrc": NETRC, "address": ADDRESS, "RAY_AUTH_TOKEN": TOKEN["RAY_AUTH_TOKEN"]}


def plant(home: Path) -> dict[str, str]:
    """The environment of a process that knows all of them."""
    home.mkdir(parents=True, exist_ok=True)
    netrc = home / ".netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {NETRC}\n")
    netrc.chmod(0o600)
    return {**ENVIRONMENT, "HOME": str(home), "NETRC": str(netrc)}


def _shapes(secret: str) -> set[bytes]:
    plain = secret.encode()
    coded = {base64.b64encode(b"\0" * shift + plain)[8:-8] for shift in range(3)}
    return {plain, urllib.parse.quote(secret, safe="").encode(), plain[:-3], *coded}


def found_in(content: bytes, secrets: Mapping[str, str] = SECRETS) -> list[str]:
    """The names of the secrets that some bytes hold, plainly or encoded."""
    return [name for name, secret in secrets.items() if any(shape in content for shape in _shapes(secret))]


def _readings(path: Path) -> Iterator[bytes]:
    yield os.fsencode(path.name)
    content = path.read_bytes()
    yield content
    if content[:4] == b"PAR1":
        file = pq.ParquetFile(path)
        yield repr(file.schema_arrow.metadata).encode()
        yield repr(file.read().to_pydict()).encode()


def leaks(folders: Iterable[Path], but: Iterable[Path] = ()) -> list[str]:
    """Every file below some folders that holds a secret, and which; files may vanish meanwhile."""
    kept, found = set(but), []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path in kept or path.is_symlink() or not path.is_file():
                continue
            try:
                lines = {
                    f"{name} in {around(content, name)!r}" for content in _readings(path) for name in found_in(content)
                }
            except FileNotFoundError:
                continue
            found += [f"{path}: {line}" for line in sorted(lines)]
    return found


def around(content: bytes, name: str) -> bytes:
    """Where a secret was found."""
    place = min(at for shape in _shapes(SECRETS[name]) if (at := content.find(shape)) >= 0)
    return content[max(0, place - 80) : place + 80]
