"""A real S3 server on this machine, for the time of a test."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

KEY = "canary-key-id"
SECRET = "canary-secret-access-key"

_numbers = itertools.count()


@contextmanager
def serving() -> Iterator[str]:
    """Starts an S3 server with an empty bucket, names it in the environment, and gives the bucket's URL."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
    }
    # A client that another server's time left would go on asking that one.
    s3fs.S3FileSystem.clear_instance_cache()
    # What one server holds in this process, the next one has too.
    bucket = f"runs-{next(_numbers)}"
    try:
        with mock.patch.dict(os.environ, names):
            boto3.client("s3").create_bucket(Bucket=bucket)
            yield f"s3://{bucket}"
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
