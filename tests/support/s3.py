"""A real S3 server on loopback, with switches that make it slow, refuse, or lose its answers."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}

_Answer = Iterable[bytes]
_buckets = itertools.count()


class S3Server:
    """The server, and what is wrong with it.

    Attributes:
        uri: `s3://bucket`.
        refuse: this many requests are answered by 503 before they do anything.
        lose: this many writes are carried out and then answered by 503.
        only: path part that a request must have to be refused or lost.
        delay_s: every request takes so much longer.
        requests: method and path of every request so far.
    """

    def __init__(self, bucket: str) -> None:
        self.uri = f"s3://{bucket}"
        self.refuse = self.lose = 0
        self.only = ""
        self.delay_s = 0.0
        self.requests: list[tuple[str, str]] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        # S3 carries out conditional writes one after the other; the simulator alone does not promise that.
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> _Answer:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.refuse and self.only in path:
            self.refuse -= 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return self._unavailable(start_response)
        with self._lock:
            if method == "PUT" and self.lose and self.only in path:
                self.lose -= 1
                list(self._app(environ, lambda *_: None))
                return self._unavailable(start_response)
            return list(self._app(environ, start_response))

    @staticmethod
    def _unavailable(start_response: Callable[..., Any]) -> _Answer:
        start_response("503 Slow Down", [("Content-Type", "text/plain"), ("Content-Length", "4")])
        return [b"slow"]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Serves an empty bucket and points the environment at it."""
    # The simulator keeps its buckets for as long as the process lives.
    bucket = f"bucket-{next(_buckets)}"
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server(bucket)
    http = make_server("127.0.0.1", 0, server, threaded=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{http.server_port}"
    changed = {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        urllib.request.urlopen(
            urllib.request.Request(f"{endpoint}/{bucket}", method="PUT"), timeout=30
        ).close()
        yield server
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        http.shutdown()
        thread.join()
        http.server_close()
