"""Addresses of object storage: which kinds there are, and what may stand in one."""

from __future__ import annotations

from urllib.parse import urlsplit

SCHEMES = ("s3", "gs", "az", "memory")


def address_fault(uri: str) -> str | None:
    """What is wrong with an address that a run is to be kept at; None where nothing is. Nobody is asked for that.

    >>> address_fault("s3://bucket/prefix"), address_fault("ftp://host/x")
    (None, 'must be a folder or s3://bucket/prefix, gs://bucket/prefix, az://bucket/prefix, but got a ftp address')
    """
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or not parts.netloc:
        known = "://bucket/prefix, ".join(SCHEMES[:3])
        return f"must be a folder or {known}://bucket/prefix, but got a {parts.scheme or 'bare'} address"
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return (
            f"{parts.scheme}://... must hold no credentials and no options, but has some; "
            "put them into the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    return None
