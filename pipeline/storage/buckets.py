"""Buckets: where they are, how long to wait, what to try again.

obstore reads endpoint, region and keys from the environment; profiles in ~/.aws, private certificates and the number
of tries are added here. docs/buckets.md lists the variables.

A request is lost when nothing comes back for a while (patience.py). The answer to an upload begins only once all of
it is sent, so its limit grows with its size; otherwise a slow connection could never finish a shard.
"""

import time
from datetime import timedelta
from functools import partial
from typing import Any

import obstore
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from gdist.pipeline.errors import UsageError
from gdist.pipeline.storage import requests
from gdist.pipeline.storage.credentials import certificates, profile_settings, require_endpoints
from gdist.pipeline.storage.failures import first_line, is_temporary, status_of
from gdist.pipeline.storage.hints import hint_for_opening
from gdist.pipeline.storage.hub import address, headers, is_read_only
from gdist.pipeline.storage.locations import GOOGLE, S3, Location
from gdist.pipeline.storage.outage import GaveUpError, outage_of
from gdist.pipeline.storage.patience import FIRST_BACKOFF, LONGEST_BACKOFF, Patience
from gdist.pipeline.storage.requests import Request

CONNECT_SECONDS = 10.0
LARGE_UPLOAD = 1 << 20  # from this size on, an upload's limit grows with it


class Bucket:
    """The obstore stores of one URI: one that zarr reads through, and those whose requests are repeated here.

    obstore itself repeats reads well, including those whose body breaks off. It does not repeat a create-only put
    whose answer was lost, or a listing that breaks off, and it signs all tries with the credentials of the first.
    """

    def __init__(self, uri: str, patience: Patience | None = None) -> None:
        self.uri, self.location = uri, Location.parse(uri)
        self.patience = patience or Patience.from_environment()
        self._settings = profile_settings() if self.location.scheme in S3 else {}
        require_endpoints(self._settings.get("endpoint"))
        self._stores: dict[float, Any] = {}
        self.reading = self._open(self.patience.silence, self.patience.tries)
        self._plain = self._open(self.patience.silence, 1)
        self.outage = outage_of(self.location.root)
        self.outage.forget()

    def repeat[T](self, request: Request[T], size: int = 0) -> T:
        """Return the answer to a request, sent again while the failure may be temporary. ``size``: bytes it uploads.

        It gives up when it has failed too often, or when nothing in this bucket has answered this process for too
        long, whichever request noticed it.
        """
        try:
            return self._repeat(request, size)
        except GaveUpError as other:
            raise other.error from None

    def _repeat[T](self, request: Request[T], size: int) -> T:
        outage, limits = self.outage, self.patience
        outage.require_hope(lambda: requests.size("zarr.json").later(self._plain))
        began, lost = time.monotonic(), 0
        for tries in range(1, limits.tries + 1):
            sent = began if tries == 1 else time.monotonic()
            store = self._store_for(size, lost)
            try:
                # What may take long, or comes when something is amiss, is sent in the form that can be abandoned.
                if outage.is_on or size >= LARGE_UPLOAD:
                    answer = outage.run(partial(request.later, store))
                else:
                    answer = request.now(store)
            except GaveUpError:
                raise
            except Exception as error:
                if not is_temporary(error):
                    if status_of(error):
                        outage.answered()
                    if tries > 1:
                        error.add_note(_REPEATED)
                    raise
                text = str(error)
                outage.reached |= "status code: " in text or "body" in text
                elapsed = time.monotonic() - min(began, outage.failed(sent))
                limit = limits.in_all if outage.reached else limits.at_first
                # One lost answer may be bad luck, so there are at least two tries, however long they take.
                if tries == limits.tries or (tries > 1 and elapsed >= limit):
                    error.add_note(f"{tries} {'try' if tries == 1 else 'tries'} in {elapsed:.1f} s")
                    outage.give_up(error, began)
                    raise
                lost += "TimedOut" in text
                if tries >= 3:
                    outage.announce(error, elapsed, tries, limits)
                pause = limits.pause(tries)
                outage.pause(pause if tries == 1 else min(pause, limit - elapsed))
            else:
                outage.answered()
                return answer
        raise AssertionError("the last try returns or raises")

    def _store_for(self, size: int, lost: int) -> Any:
        if size < LARGE_UPLOAD:
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
        if said := headers(self.location):
            client["default_headers"] = said
        if bundle := certificates("AWS_CA_BUNDLE"):
            client["root_certificate"] = bundle
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
            why = f"cannot use {self.uri}: {first_line(error)}"
            raise UsageError(why, hint_for_opening(error, self.location.scheme)) from error


_REPEATED = "an earlier try of the same request had no answer"


def is_repeated(error: Exception) -> bool:
    """Whether the request that failed was sent before, and may have arrived."""
    return _REPEATED in getattr(error, "__notes__", ())


def _store(location: Location, options: dict[str, Any]) -> Any:
    """Open obstore's store for everything below ``location``; its key is used unchanged as the store's prefix."""
    scheme, bucket, prefix = location.scheme, location.bucket, location.key or None
    if is_read_only(scheme):
        return HTTPStore(address(location), **options)
    if scheme in S3:
        return S3Store(bucket, prefix=prefix, **options)
    if scheme in GOOGLE:
        return GCSStore(bucket, prefix=prefix, **options)
    account: dict[str, Any] = {"account_name": location.account} if location.account else {}
    return AzureStore(bucket, prefix=prefix, **account, **options)
