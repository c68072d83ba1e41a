"""Places that are only read: web servers, and data sets on the Hugging Face Hub, which is one of them.

A web server answers for one object at a time and lists nothing. docs/buckets.md says what works without a listing.
"""

import os
from urllib.parse import quote

from gdist.pipeline.errors import AGAIN, CacheError, UsageError
from gdist.pipeline.storage.credentials import require_endpoint
from gdist.pipeline.storage.failures import is_refused_range, is_temporary, status_of
from gdist.pipeline.storage.locations import HUB, WEB, Location, in_shell, scheme_of

ENDPOINT = "https://huggingface.co"


def is_read_only(scheme: str) -> bool:
    """Whether gdist can only read there, one object at a time."""
    return scheme in (*WEB, *HUB)


def address(location: Location) -> str:
    """Return the web address below which the objects of a location are.

    Raises:
        UsageError: HF_ENDPOINT is no web address.
    """
    if location.scheme in WEB:
        return f"{location.root}/{quote(location.key)}"
    return f"{endpoint()}/{location.bucket}/resolve/{location.account or 'main'}/{quote(location.key)}"


def endpoint() -> str:
    """Return the Hub's address: what HF_ENDPOINT names, or Hugging Face's own. UsageError where that is none."""
    named = (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    require_endpoint("HF_ENDPOINT", named)
    return named


def headers(location: Location) -> dict[str, str]:
    """Return what every request says besides: the Hub's token. A redirection to another host is sent without it."""
    token = os.environ.get("HF_TOKEN", "").strip()
    return {"Authorization": f"Bearer {token}"} if token and location.scheme in HUB else {}


def refuse_writing(uri: str, scheme: str) -> UsageError:
    """Return the error to raise where something would be written or deleted."""
    if scheme in HUB:
        _, organisation, name = Location.parse(uri).bucket.split("/")
        upload = f"hf upload {organisation}/{name} FOLDER --repo-type dataset"
        hint = f"write to a folder or a bucket, and upload it from there: {upload}"
    else:
        hint = "write to a folder or a bucket, and serve it from there"
    return UsageError(f"cannot write to {uri}: gdist only reads from {scheme}://", hint)


def require_writable(uri: str) -> None:
    """Raise UsageError where gdist only reads, before anything is begun."""
    if is_read_only(scheme := scheme_of(uri)):
        Location.parse(uri)  # what cannot be a location is refused as such
        raise refuse_writing(uri, scheme)


def require_lists(uri: str, why: str = "a web server does not say what it has") -> None:
    """Raise CacheError where nothing can be listed."""
    if is_read_only(scheme_of(uri)):
        hint = f"copy it to a folder or a bucket first: gdist copy {in_shell(uri)} FOLDER"
        raise CacheError(f"cannot list {uri}: {why}", hint)


def hint_for_web(error: Exception, scheme: str) -> str | None:
    """Suggest what to do about an error of a web server."""
    status, hub = status_of(error), scheme in HUB
    if status in (401, 403) and hub:
        return (
            "check the name of the data set (the Hub says the same of what does not exist), and whether HF_TOKEN may "
            "read it; where it is gated, accept its conditions on its page first"
        )
    if status in (401, 403):
        return "this server wants a login, and gdist sends none: copy the cache to a folder or a bucket"
    if type(error).__name__ == "NotSupportedError" or (is_refused_range(error) and not status):
        return "this server does not answer for parts of a file: copy the cache to a folder or a bucket"
    if is_temporary(error) or "error sending request" in str(error):
        return f"check the network{' and HF_ENDPOINT' if hub else ' and the address'}, then {AGAIN}"
    return None
