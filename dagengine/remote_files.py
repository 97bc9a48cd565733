"""Files at any URL that fsspec knows, for artifacts and for spilling: opened so that a silent server is noticed, and
what went wrong said in one line that holds no secret.

How long a filesystem waits, and how often it tries again, is its own business, and its user's: what fsspec's configuration
says (files in `~/.config/fsspec`, variables `FSSPEC_GS_…`) holds. Only where it would wait for ever, a limit is set here.

May import nothing of ours. fsspec is imported when something is opened.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final

SILENCE: Final = 30.0
REQUEST: Final = 300.0
"""Seconds without a byte, and for a whole request, which has some MiB: limits for gcsfs, which has none of its own. It tries
five times again. s3fs waits for 15 s, adlfs for 60."""

_LONGEST: Final = 300
"""Characters of what a filesystem says: some add the whole answer of the server."""

_EXTRAS: Final = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "abfs"),
}
"""Of each scheme, what to install."""

_IN_FRONT = re.compile(r"(?<=://)[^/@]*@")
_CONTAINER = re.compile(r"(?:az|abfss?)://[^/@:]*@")  # abfs://container@account.dfs.core.windows.net/…
_PARAMETER = re.compile(r"([?&;](?:sig|[\w-]*(?:signature|token|key|secret|password))=)[^&;\s]*", re.IGNORECASE)
_DETAILS = re.compile(r"[\s.]*\b(?:RequestId|Content):.*", re.DOTALL)  # what Azure's errors end with


def open_files(url: str) -> tuple[Any, str]:
    """The filesystem that the URL names, and the path there, without a slash at its end. Raises whatever fsspec does."""
    import fsspec

    files, root = fsspec.url_to_fs(url, **_limits(url))
    return files, str(root).rstrip("/")


def without_secrets(text: str) -> str:
    """The URL, or what was said of it, fit to be shown."""
    if not _CONTAINER.match(text):
        text = _IN_FRONT.sub("…@", text)
    return _PARAMETER.sub(r"\1…", text)


def described(error: Exception, url: str) -> str:
    """In one line, what is wrong with the place, and what to do. `url`: as it was given."""
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(_scheme(url))
        return _one_line(error, url) + (f": pip install 'dagengine[{extra}]'" if extra else "")
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket or folder. Check the address, or make it"
    if isinstance(error, TimeoutError):
        return "it does not answer. Check the address and the network"
    return f"{_one_line(error, url)}. Check the address and the rights to it"


def _one_line(error: Exception, url: str) -> str:
    text = str(error)
    for secret in _IN_FRONT.findall(url):
        text = text.replace(secret, "…@")
    text = " ".join(without_secrets(_DETAILS.sub("", text)).split()).rstrip(".!")
    return (text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…") or type(error).__name__


def _limits(url: str) -> dict[str, Any]:
    """Options for the filesystem of a URL, as far as nobody has set them."""
    if _scheme(url) not in ("gs", "gcs"):
        return {}
    from fsspec.config import conf

    log = logging.getLogger("gcsfs")
    if not log.handlers:
        # Of what it raises it logs the traceback, too: that is for a program that has a log, not for a terminal.
        log.addHandler(logging.NullHandler())
    if any("requests_timeout" in conf.get(scheme, {}) for scheme in ("gs", "gcs")):
        return {}
    try:
        from aiohttp import ClientTimeout
    except ImportError:  # then there is no gcsfs either, and fsspec says so
        return {}
    return {"requests_timeout": ClientTimeout(total=REQUEST, sock_connect=SILENCE, sock_read=SILENCE)}


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()
