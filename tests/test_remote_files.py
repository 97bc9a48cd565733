"""What is said of URLs and of their filesystems' errors; how long is waited."""

from __future__ import annotations

import pytest

from dagengine.remote_files import REQUEST, SILENCE, described, open_files, without_secrets

AZURE = """The specified container does not exist.
RequestId:7442cc2a-a998-4a1f-a6dd-c15a2be31ecf
Time:2026-11-21T13:45:28.924Z
ErrorCode:ContainerNotFound
Content: <?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<Error><Code>ContainerNotFound</Code></Error>"""


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/values", "s3://bucket/values"),
        ("s3://key:secret@bucket/values", "s3://…@bucket/values"),
        ("abfs://container@account.dfs.core.windows.net/a", "abfs://container@account.dfs.core.windows.net/a"),
        ("abfs://me:secret@container/a", "abfs://…@container/a"),
        ("https://host/a?sv=1&sig=secret&x=2", "https://host/a?sv=1&sig=…&x=2"),
        ("https://host/a?X-Amz-Security-Token=secret", "https://host/a?X-Amz-Security-Token=…"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    """A container of Azure's is none."""
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("abfs://c", OSError(AZURE), "The specified container does not exist. Check the address and the rights to it"),
        (
            "gs://b",
            FileNotFoundError("http://x/b/o"),
            "there is no such bucket or folder. Check the address, or make it",
        ),
        ("gs://b", TimeoutError(), "it does not answer. Check the address and the network"),
        ("gcs://b", ImportError("Please install gcsfs"), "Please install gcsfs: pip install 'dagengine[gcs]'"),
        ("az://c", ImportError("Install adlfs"), "Install adlfs: pip install 'dagengine[abfs]'"),
        ("oci://b", ImportError("Install ocifs"), "Install ocifs"),
        ("s3://me:hush@b", OSError("no\nme:hush@b"), "no …@b. Check the address and the rights to it"),
        ("s3://b", OSError(), "OSError. Check the address and the rights to it"),
    ],
)
def test_an_error_is_one_line_with_what_to_do(url: str, error: Exception, said: str) -> None:
    assert described(error, url) == said


def test_a_long_answer_is_cut() -> None:
    """Some servers send a page."""
    assert len(described(OSError("x" * 10_000), "s3://b")) < 400


def test_google_s_buckets_have_limits_of_time_where_nobody_has_set_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfs by itself would wait for ever for a server that does not answer. What a user has configured, holds."""
    pytest.importorskip("gcsfs", reason="pip install 'dagengine[gcs]'")
    from fsspec.config import conf

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    files, root = open_files("gs://bucket/values/")
    assert root == "bucket/values"
    assert (files.requests_timeout.total, files.requests_timeout.sock_read) == (REQUEST, SILENCE)
    monkeypatch.setitem(conf, "gs", {"requests_timeout": 7})
    assert open_files("gs://bucket/values")[0].requests_timeout == 7
