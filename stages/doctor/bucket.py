"""A bucket in which gdist is to write: each thing that an extraction or a training does there is done once.

All objects have one new random name above them, and are deleted at the end, whatever happens before.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime

from gdist.pipeline.errors import AGAIN, CacheError, GdistError
from gdist.pipeline.storage.hints import lacks_permission
from gdist.pipeline.storage.locations import join, scheme_of
from gdist.pipeline.storage.objects import Storage
from gdist.pipeline.storage.trial import put_in_parts
from gdist.stages.doctor.check import Check, milliseconds, note, ok, problem, refused, speed, timed
from gdist.stages.doctor.reading import check_listed, of_ranges

LARGE = 4 * 10**6  # bytes of the object with which the speed of one connection is measured
IN_PARTS = (5 << 20) + 1  # bytes: S3's least size of a part, and one more
SKEW = 60.0  # seconds by which a clock may be wrong


class Bucket:
    """The checks of one place in a bucket.

    Attributes:
        in_parts: whether to try an upload in parts too.
        folder: the new random name, below the place.
        there: the sizes of the objects that the store has confirmed, by key.
        left: the keys of all objects that may be there now: where no answer came, nobody knows.
    """

    def __init__(self, uri: str, storage: Storage, in_parts: bool = False) -> None:
        self.uri, self.storage, self.in_parts = uri, storage, in_parts
        self.folder = f"gdist-doctor-{secrets.token_hex(8)}"
        self.there: dict[str, int] = {}
        self.left: list[str] = []
        self._data = os.urandom(IN_PARTS)
        self._large = self._data[:LARGE]  # what the large object has
        self._sent_at = self._stored_at = 0.0  # when it was sent, and when it was there
        self._only_refused = True  # whether what failed was refused to somebody whom the store knows

    def checks(self) -> Iterator[Check]:
        """Do each thing once. Of a place that cannot be reached at all, only that is said."""
        try:
            listed = self._tried("list", self._list)
            yield listed
            if not self._only_refused:
                return
            yield self._tried("create only", self._create)
            large = self._tried("write", self._write)
            yield large
            if large.status == "ok":
                yield self._tried("overwrite", self._overwrite)
                yield from self._read_back()
                if self.in_parts:
                    yield self._in_parts("write in parts")
            elif listed.status == "ok":  # reading may be allowed nevertheless
                yield from (each for each in check_listed(self.uri, self.storage, None) if each.name != "list")
            if listed.status == "ok" and large.status == "ok":
                yield from self._listed_again()
            if self.left:
                yield self._tried("delete", self._delete)
        finally:
            if self.left:  # interrupted, or of unknown outcome
                with suppress(GdistError):
                    self.storage.delete(list(self.left))

    def _tried(self, name: str, action: Callable[[str], Check]) -> Check:
        """Do one thing; if the store refuses it, in its words."""
        try:
            return action(name)
        except CacheError as error:
            self._only_refused = lacks_permission(error.__cause__, scheme_of(self.uri))
            return refused(self.uri, name, "no", error)
        except FileNotFoundError as error:
            return problem(self.uri, name, "no", f"what was written a moment ago is not there: {error}", _STRANGE)

    def _new[T](self, name: str, size: int, write: Callable[[str], T]) -> tuple[T, float]:
        """Write an object that is not there yet. Returns what ``write`` does, and seconds."""
        key = f"{self.folder}/{name}"
        self.left.append(key)
        try:
            answer = timed(lambda: write(key))
        except CacheError as error:
            if lacks_permission(error.__cause__, scheme_of(self.uri)):
                self.left.remove(key)
            raise
        self.there[key] = size
        return answer

    def _list(self, name: str) -> Check:
        _, seconds = timed(lambda: self.storage.objects(self.folder))
        return ok(self.uri, name, milliseconds(seconds))

    def _create(self, name: str) -> Check:
        """Create an object, and try to create it again, which must not change it: locks and receipts rely on it."""
        first, second = b"first", b"other"
        created, seconds = self._new("created", len(first), lambda key: self.storage.put_new(key, first))
        again = self.storage.put_new(f"{self.folder}/created", second)
        if not created:
            return problem(self.uri, name, "no", "the store says of a new random name that it exists", _STRANGE)
        if again:
            means = "the store overwrites what was to be created only: two extractions could not keep apart"
            hint = "it ignores If-None-Match: upgrade the server, or use another store"
            return problem(self.uri, name, "is not kept", means, hint)
        return ok(self.uri, name, f"{milliseconds(seconds)}; a second one was refused")

    def _write(self, name: str) -> Check:
        self._sent_at = time.time()
        _, seconds = self._new("large", LARGE, lambda key: self.storage.put(key, self._data[:LARGE]))
        self._stored_at = time.time()
        return ok(self.uri, name, f"{speed(LARGE, seconds)} on one connection")

    def _overwrite(self, name: str) -> Check:
        """Replace an object, as an extraction does with its lock, and a repair with a shard."""
        sent_at, data = time.time(), self._data[1 : LARGE + 1]
        _, seconds = timed(lambda: self.storage.put(f"{self.folder}/large", data))
        self._sent_at, self._stored_at, self._large = sent_at, time.time(), data
        return ok(self.uri, name, milliseconds(seconds))

    def _read_back(self) -> Iterator[Check]:
        """Read the large object, whole and in parts."""
        read = self._tried("read", self._read)
        yield read
        if read.status == "ok":
            yield of_ranges(self.uri, self.storage, f"{self.folder}/large", self._large)

    def _read(self, name: str) -> Check:
        data, seconds = timed(lambda: self.storage.get(f"{self.folder}/large"))
        if data == self._large:
            return ok(self.uri, name, f"{speed(len(data), seconds)} on one connection")
        if data == self._data[:LARGE]:
            means = "what was overwritten is read as it was before: this store is not consistent"
            return problem(self.uri, name, "older bytes", means, _STRANGE)
        means = "other bytes are read than were written"
        return problem(self.uri, name, "wrong bytes", means, "look for a proxy between here and the store")

    def _in_parts(self, name: str) -> Check:
        """gdist itself never uploads in parts, so this is only worth knowing. Nobody asks for it by default: the
        parts of an upload that is killed cannot be deleted from here."""
        try:
            _, seconds = self._new("parts", IN_PARTS, lambda key: put_in_parts(self.storage, key, self._data))
        except CacheError as error:
            means = f"gdist writes no object in parts, but other tools do: {error.message}"
            return note(self.uri, name, "no", means)
        return ok(self.uri, name, f"{speed(IN_PARTS, seconds)}; gdist itself never does")

    def _listed_again(self) -> Iterator[Check]:
        """What was written must be listed, and when it was written shows how right this machine's clock is."""
        try:
            found = self.storage.objects(self.folder)
        except CacheError as error:
            yield refused(self.uri, "list what is there", "no", error)
            return
        for key, size in self.there.items():
            if key not in found or found[key]["size"] != size:
                means = "what was written a moment ago is not listed, or with another size: gdist would not find it"
                yield problem(self.uri, "list what is there", "incomplete", means, _STRANGE)
                return
        stored = found[f"{self.folder}/large"]["last_modified"]
        yield of_clock(self.uri, stored, self._sent_at, self._stored_at)

    def _delete(self, name: str) -> Check:
        keys = list(self.left)
        try:
            _, seconds = timed(lambda: self.storage.delete(keys))
        except CacheError as error:
            self.left.clear()  # it was tried
            left = join(self.uri.rstrip("/"), self.folder)
            hint = f"{error.hint or f'see to that, and {AGAIN}'}; then delete {left}/"
            return problem(self.uri, name, "no", f"{error.message}; the objects of this check are left there", hint)
        self.left.clear()
        try:
            self.storage.size(keys[-1])
        except FileNotFoundError:
            return ok(self.uri, name, f"{milliseconds(seconds)} for {len(keys)} objects; nothing is left")
        except CacheError:  # who may not list is not told what is missing
            return ok(self.uri, name, f"{milliseconds(seconds)} for {len(keys)} objects")
        means = "the store says that it has deleted an object, which is still there"
        return problem(self.uri, name, "no", means, f"{_STRANGE}; then delete {join(self.uri, self.folder)}/")


_STRANGE = "ask those who run this store, or use another one"


def of_clock(uri: str, stored: datetime, before: float, after: float) -> Check:
    """Compare this machine's clock with when the store says that it has stored an object, to the second.

    Args:
        before, after: when it was sent and when the answer came, by this machine's clock, in seconds since 1970.
    """
    seconds = stored.timestamp()
    off = before - (seconds + 1) if before > seconds + 1 else min(after - seconds, 0.0)
    value = (
        "as the store's, to the second" if abs(off) < 1 else f"{abs(off):.0f} s {'ahead' if off > 0 else 'behind'}"
    )
    if abs(off) < SKEW:
        return ok(uri, "clock", value)
    means = "this machine's clock or the store's is wrong; from some 15 minutes on, stores refuse all requests"
    return note(uri, "clock", value, means, "timedatectl set-ntp true")
