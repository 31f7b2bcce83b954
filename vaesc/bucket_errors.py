"""Which S3 server is meant, and what it or its client says, put into one sentence.

What a server says is never repeated whole, since it names the key.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from vaesc.errors import ConfigError, StoreError

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""Environment variables that may name the server, the first one set counts."""
_SERVER = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_METADATA = re.compile(r"169\.254\.|/latest/(api/token|meta-data)|Instance metadata")
"""Where the client asks for credentials if it was given none: the machine's, if it is Amazon's."""
_ELSEWHERE = re.compile(
    r"redirect|status code: 30\d|<Code>(PermanentRedirect|AuthorizationHeaderMalformed)",
    re.IGNORECASE,
)


class BucketError(StoreError):
    """A server does not answer, does not let us in, or has no such bucket."""


class AwayError(BucketError):
    """A server does not answer, or fails at whatever it is asked: that may pass by itself."""


def endpoint() -> str | None:
    """Return the server that is configured; None: Amazon's.

    Raises:
        ConfigError: It is no URL of a server, or holds credentials.
    """
    name = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if name is None:
        return None
    url = os.environ[name]
    if "@" in url:
        raise ConfigError(f"{name} must not hold credentials; take them out of it")
    if not (_SERVER.fullmatch(url) and _has_host(url)):
        raise ConfigError(f"{name} must be http://host:port or https://host:port, got {url!r}")
    return url


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname and re.fullmatch(r"[\w.:-]+", parts.hostname)) and (
            parts.port is None or parts.port > 0
        )
    except ValueError:  # a port above 65535, half a bracket
        return False


def told(said: str, verb: str, url: str) -> BucketError:
    """Say what is wrong by what the client said; not from it: it may hold the key's name.

    Args:
        said: What the client said.
        verb: What was tried: list, read or write.
        url: With what.
    """
    server = endpoint() or "Amazon S3"
    code = re.search(r"<Code>(\w{1,60})</Code>", said)
    status = re.search(r"status code: (\d{3}[ \w]{0,40})", said)
    if "NoSuchBucket" in said:
        return no_bucket(url)
    if _METADATA.search(said):  # first of all: whatever was answered, the server was not asked
        return BucketError(
            f"there are no credentials for {url}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if _ELSEWHERE.search(said):
        region = re.search(r"<Region>([\w-]{1,30})</Region>", said)
        return BucketError(
            f"{server} sends us elsewhere for {url}, whose bucket is in another region; set "
            f"AWS_REGION to its own{f', {region[1]}' if region else ''}"
        )
    if re.search("PermissionDenied|Unauthenticated|(401|403) ", said):
        reason = code[1] if code else status[1] if status else "refused"
        return BucketError(
            f"{server} does not let us {verb} {url} ({reason}); check AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, and what they may do there"
        )
    if "non-partial response" in said:
        return BucketError(
            f"{server} ignores which part of an object is asked for (HTTP Range), so "
            f"{url} cannot be read in place; copy it to a folder first"
        )
    if status or code:
        for_now = not status or status[1].startswith(("5", "429"))
        reason = " ".join(found[1] for found in (status, code) if found)
        return (AwayError if for_now else BucketError)(
            f"{server} fails to {verb} {url} ({reason}); try again later, what is "
            "finished on this machine is kept"
        )
    return AwayError(
        f"{server} does not answer, so {url} cannot be used; start that server, or "
        "correct AWS_ENDPOINT_URL; what is finished on this machine is kept"
    )


def no_bucket(url: str) -> BucketError:
    """Return the complaint that there is no such bucket."""
    name = url.split("/")[2]
    return BucketError(
        f"{endpoint() or 'Amazon S3'} has no bucket {name}; make it, or correct {url}"
    )
