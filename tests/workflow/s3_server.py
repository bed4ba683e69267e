"""An S3 server on loopback that can go away in the middle of a transfer and come back with what it had."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socket import SHUT_RDWR
from threading import Lock, Thread
from typing import Any

import pytest

BUCKET = "team"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
    # One attempt: a server that went away is not waited for.
    "AWS_MAX_ATTEMPTS": "1",
}


class S3Server:
    """moto's S3 on a free port.

    Attributes:
        objects_left: how many more objects of the store may come or go before it answers nobody; None: any number.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        class Quiet(MotoRequestHandler):
            def log(self, type: str, message: str, *args: Any) -> None:
                pass

        self.objects_left: int | None = None
        self._turn = Lock()
        self._app: Callable[..., Iterable[bytes]] = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        moves_object = "/files/md5/" in environ["PATH_INFO"] and environ["REQUEST_METHOD"] in ("GET", "PUT")
        with self._turn:
            if self.objects_left == 0:
                # The connection ends without an answer, as with a server that has died.
                environ["werkzeug.socket"].shutdown(SHUT_RDWR)
                raise ConnectionAbortedError
            if moves_object and self.objects_left is not None:
                self.objects_left -= 1
        return self._app(environ, start_response)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running server with an empty bucket, and the environment in which DVC reaches it; skips without moto."""
    pytest.importorskip("moto.server", reason="no moto here, so no S3 server")
    import boto3

    server = S3Server()
    before = dict(os.environ)
    os.environ.update(CREDENTIALS)
    try:
        client = boto3.client("s3", endpoint_url=server.url)
        client.create_bucket(Bucket=BUCKET)
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.stop()
