"""Buckets: where they are, whose credentials are used, how long to wait, what to retry, how failures are explained.

obstore reads endpoint, region and keys from the environment; profiles in ~/.aws, private certificates and the number
of tries are added here. docs/buckets.md lists the variables.

A request is lost when nothing comes back for :func:`patience` seconds. The answer to an upload begins only once all
of it is sent, so its limit grows with its size; otherwise a slow connection could never finish a shard.
"""

import configparser
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import obstore
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from gdist.pipeline import console
from gdist.pipeline.errors import UsageError
from gdist.pipeline.storage.locations import GOOGLE, PLACES, S3, WEB, Location

CONNECT_SECONDS = 10.0
SLOWEST_UPLOAD = 256 * 1024  # bytes per second of one upload; the first try of a slower one is given up
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 20.0
_PROFILE_KEYS = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key",
         "aws_session_token": "session_token", "region": "region", "endpoint_url": "endpoint"}  # fmt: skip
_STATUS = re.compile(r"status code: (\d{3})([^:\n]*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_PLACE = re.compile(r"Error performing \w+ (https?://[^/\s]+)")
_CAUSES = (
    (re.compile(r'error: "failed to lookup address information: ([^"]+)"'), "the host name is unknown ({})"),
    (re.compile(r'kind: \w+,\s+message: "([^"]+)"'), "{}"),
    (re.compile(r"kind: (Timeout|Connect),\s+source.*TimedOut", re.DOTALL), "no answer in time"),
    (re.compile(r"(IncompleteMessage|UnexpectedEof|IncompleteBody)"), "the connection was closed halfway"),
)
_GENERIC = re.compile(r"^Generic \w+ error: ")


@dataclass(frozen=True)
class Patience:
    """How long to wait, and how often to try.

    Attributes:
        silence: seconds without an answer before a request counts as lost.
        tries: how often one request is sent at most, the first time included.
    """

    silence: float = 60.0
    tries: int = 10

    @property
    def in_all(self) -> float:
        """Seconds after which a request that keeps failing is no longer retried."""
        return 5 * self.silence

    @property
    def at_first(self) -> float:
        """The same for a server that has never answered: most likely its address is wrong."""
        return self.silence / 2

    def for_upload(self, size: int, tries: int) -> float:
        """Seconds an upload of ``size`` bytes may take on its n-th try, counted from 0; the part for its size doubles
        with every try."""
        rounded = 1 << max(size - 1, 1).bit_length()  # few different limits: each needs its own connections
        return self.silence + (rounded << tries) / SLOWEST_UPLOAD


def patience() -> Patience:
    """Read the limits from GDIST_STORE_TIMEOUT (seconds) and AWS_MAX_ATTEMPTS."""
    return Patience(
        _number("GDIST_STORE_TIMEOUT", Patience.silence, 0.1), int(_number("AWS_MAX_ATTEMPTS", Patience.tries, 1))
    )


def _number(name: str, default: float, least: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        if least <= float(text) < 1e6:
            return float(text)
    except ValueError:
        pass
    raise UsageError(
        f"{name}={text}: must be a number, {least:g} or more", f"unset {name}, or export {name}={default:g}"
    )


class Bucket:
    """The obstore stores of one URI: one that zarr reads through, and those whose requests are repeated here.

    obstore itself repeats reads well, including those whose body breaks off. It does not repeat a create-only put
    whose answer was lost, or a listing that breaks off, and it signs all tries with the credentials of the first.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self.location, self.patience = uri, Location.parse(uri), patience()
        self.reached = False
        self._settings = _settings() if self.location.scheme in S3 else {}
        self._stores: dict[float, Any] = {}
        self.reading = self._open(self.patience.silence, self.patience.tries)
        self._plain = self._open(self.patience.silence, 1)

    def repeat[T](self, request: Callable[[Any], T], size: int = 0) -> T:
        """Return the result of ``request(store)``, retried while the failure may be temporary. ``size``: bytes it
        uploads."""
        began, lost, limits = time.monotonic(), 0, self.patience
        for tries in range(1, limits.tries + 1):
            try:
                answer = request(self._store_for(size, lost))
            except (obstore.exceptions.GenericError, TimeoutError) as error:
                text = str(error)
                self.reached |= "status code: " in text or "body" in text
                elapsed = time.monotonic() - began
                # One lost answer may be bad luck, so there are at least two tries, however long they take.
                spent = tries > 1 and elapsed >= (limits.in_all if self.reached else limits.at_first)
                if not is_temporary(error) or tries == limits.tries or spent:
                    error.add_note(f"{tries} {'try' if tries == 1 else 'tries'} in {elapsed:.1f} s")
                    raise
                lost += "TimedOut" in text
                pause = min(FIRST_BACKOFF * 2 ** (tries - 1), LONGEST_BACKOFF) * random.uniform(0.5, 1)
                if tries >= 3:
                    console.say(f"{self.uri}: {explain(error)}; try {tries + 1} of {limits.tries} in {pause:.1f} s")
                time.sleep(pause)
            else:
                self.reached = True
                return answer
        raise AssertionError("the last try returns or raises")

    def _store_for(self, size: int, lost: int) -> Any:
        if size < 1 << 20:
            return self._plain
        seconds = self.patience.for_upload(size, lost)
        if seconds not in self._stores:
            self._stores[seconds] = self._open(seconds, 1)
        return self._stores[seconds]

    def _open(self, seconds: float, tries: int) -> Any:
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, self.patience.silence)),
            "read_timeout": timedelta(seconds=seconds),
            "timeout": timedelta(days=1),  # for a whole request; what matters is whether data still arrives
            # Other tools accept a plain-HTTP endpoint (MinIO, a test server) without a further option; so does gdist.
            "allow_http": True,
        }
        if bundle := os.environ.get("AWS_CA_BUNDLE"):
            client["root_certificate"] = _read(bundle, "AWS_CA_BUNDLE")
        backoff = {
            "init_backoff": timedelta(seconds=FIRST_BACKOFF),
            "max_backoff": timedelta(seconds=LONGEST_BACKOFF),
        }
        retry = {
            "max_retries": tries - 1,
            "retry_timeout": timedelta(seconds=self.patience.in_all),
            "backoff": backoff | {"base": 2},
        }
        options: dict[str, Any] = {"client_options": client, "retry_config": retry}
        if self._settings:
            options["config"] = self._settings
        try:
            return _store(self.location, options)
        except (ValueError, obstore.exceptions.BaseError) as error:
            raise UsageError(f"cannot use {self.uri}: {first_line(error)}", f"a cache is {PLACES}") from error


def _store(location: Location, options: dict[str, Any]) -> Any:
    """Open obstore's store for everything below ``location``; its key is used unchanged as the store's prefix."""
    scheme, bucket, prefix = location.scheme, location.bucket, location.key or None
    if scheme in WEB:
        return HTTPStore(f"{location.root}/{quote(location.key)}", **options)
    if scheme in S3:
        return S3Store(bucket, prefix=prefix, **options)
    if scheme in GOOGLE:
        return GCSStore(bucket, prefix=prefix, **options)
    account: dict[str, Any] = {"account_name": location.account} if location.account else {}
    return AzureStore(bucket, prefix=prefix, **account, **options)


# --- whose credentials ----------------------------------------------------------------------------------------------


def _settings() -> dict[str, Any]:
    """Read what the profile in ~/.aws adds to the environment. The environment wins, as in other tools."""
    environment = os.environ
    profile = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
    given = {
        "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    }
    elsewhere = ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE")
    found: dict[str, str] = {}
    for variable, default, prefix in (
        ("AWS_CONFIG_FILE", "~/.aws/config", "profile "),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", ""),
    ):
        name = profile or "default"
        section = name if name == "default" else prefix + name
        path = Path(environment.get(variable) or default).expanduser()
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            raise UsageError(f"cannot read {path}: {first_line(error)}", f"fix it, or set {variable}") from error
        if parser.has_section(section):
            found |= dict(parser.items(section))
    if profile and not found:
        raise UsageError(f"AWS_PROFILE={profile}: there is no such profile", "aws configure list-profiles")
    if profile and "aws_access_key_id" not in found and not any(map(environment.get, elsewhere)):
        login = next((key for key in found if key.startswith(("sso_", "role_arn", "credential_process"))), "no keys")
        raise UsageError(
            f"AWS_PROFILE={profile}: gdist reads keys from profiles, and this one has {login}",
            f'eval "$(aws configure export-credentials --profile {profile} --format env)"',
        )
    return {
        ours: found[theirs]
        for theirs, ours in _PROFILE_KEYS.items()
        if found.get(theirs) and not any(map(environment.get, given.get(ours, elsewhere)))
    }


def _read(path: str, variable: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{variable}: cannot read {path}: {first_line(error)}", f"unset {variable}") from error


# --- what went wrong ------------------------------------------------------------------------------------------------


def is_temporary(error: Exception) -> bool:
    """Whether the same request may succeed a little later: a busy server or a broken connection, not a refusal."""
    text = str(error)
    if status := _STATUS.search(text):
        # S3 answers 400 RequestTimeout when an upload stalls.
        return status[1].startswith("5") or status[1] in ("408", "429") or "<Code>RequestTimeout<" in text
    return "HTTP error: " in text


def explain(error: Exception) -> str:
    """Explain an error in one line: what the server said, or what happened to the connection."""
    text = str(error)
    place = f" from {found[1]}" if (found := _PLACE.search(text)) else ""
    tries = f" ({', '.join(error.__notes__)})" if getattr(error, "__notes__", None) else ""
    if status := _STATUS.search(text):
        code = f" {found[1]}" if (found := _CODE.search(text)) else ""
        return f"{status[1]}{status[2]}{code}{place}{tries}"
    if "HTTP error: " in text:
        for pattern, words in _CAUSES:
            if found := pattern.search(text):
                return f"{words.format(found[1])}{place.replace('from', 'at', 1)}{tries}"
    return first_line(error) + tries


def first_line(error: Exception) -> str:
    """Return the first line of an exception's text, without the "Generic S3 error: " that obstore puts before it."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _GENERIC.sub("", line).removesuffix(': <?xml version="1.0" encoding="utf-8"?>')


AGAIN = "run the same command again: finished packs are kept"


def hint(error: Exception) -> str | None:
    """Suggest what to do about an error; None where gdist has no suggestion."""
    text = str(error)
    code = found[1] if (found := _CODE.search(text)) else ""
    if code in ("ExpiredToken", "RequestExpired", "ExpiredTokenException", "TokenRefreshRequired"):
        return f"the credentials have expired: renew them, then {AGAIN}"
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"):
        return "check the credentials in the environment: the server does not know them, or the secret is wrong"
    if code == "NoSuchBucket":
        return "there is no such bucket (or AWS_ENDPOINT_URL points elsewhere): create it, or choose another place"
    if "redirect" in text or code in (
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraint",
    ):
        how = "curl -sI https://BUCKET.s3.amazonaws.com | grep region"
        return f"the bucket is in another region: export AWS_REGION=… (to see which: {how})"
    # Without credentials in the environment, obstore asks the metadata server, which answers only inside the cloud.
    refused = (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError)
    if "169.254." in text or "metadata.google" in text:
        return "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if isinstance(error, refused):
        return "check the credentials in the environment, and whether they permit list, get, put and delete there"
    if isinstance(error, obstore.exceptions.InvalidPathError):
        return "rename or delete that object (rclone or the provider's console can), or choose another place"
    if is_temporary(error) and "status code" in text:
        return f"the object store is overloaded or out of order; later, {AGAIN}"
    if "error sending request" in text or "body error" in text:
        return f"check the network and AWS_ENDPOINT_URL, then {AGAIN}"
    return None
