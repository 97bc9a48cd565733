"""An S3 server for tests: moto's, on a port of this machine, with a bucket for whoever asks."""

from __future__ import annotations

import os
import uuid
from functools import cache

HOST = "127.0.0.1"


@cache
def shared() -> str:
    """The URL of the server of this process, which ends with it. The process's environment leads to it from now on."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(HOST, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    url = f"http://{HOST}:{port}"
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
    }
    return url


def fresh_bucket() -> str:
    """`s3://` and the name of a new, empty bucket."""
    import fsspec

    shared()
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"
