"""Read every byte of a cache and compare it with its seals: the plan's documents, the receipts, every shard.

A shard's digest tells that it is damaged; the checksum of each inner chunk, which has one owner, tells whose data it
is.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from gdist.pipeline import arrays
from gdist.pipeline.cache import Cache
from gdist.pipeline.console import Advance
from gdist.pipeline.errors import CacheDamagedError
from gdist.pipeline.plan import read_document, receipt_key
from gdist.pipeline.storage import sha256

THREADS = 4


@dataclass(frozen=True)
class Damage:
    """One damaged or missing object.

    Attributes:
        array: ``layers/05``, ``waveform``, or None for a document.
        utterances: those whose data is affected; empty when only rows without an owner are.
    """

    object: str
    reason: str
    pack: int | None = None
    array: str | None = None
    utterances: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.array:
            return f"{self.object}: {self.reason}"
        what = f"layer {int(self.array.removeprefix('layers/'))}" if self.array.startswith("layers/") else self.array
        names = ", ".join(self.utterances[:5]) or "rows that belong to no utterance"
        more = f" and {len(self.utterances) - 5} more" if len(self.utterances) > 5 else ""
        return f"{self.object}: {self.reason}; {what}, utterance {names}{more}"


def verify(cache: Cache, advance: Advance) -> dict[str, Any]:
    """The fields of ``gdist verify --json``: ok, packs, packs_missing, bad.

    Args:
        advance: told after every pack.
    """
    bad: list[Damage] = []
    for key in cache.gdist["objects"]:
        try:
            read_document(cache.storage, cache.gdist, key)
        except CacheDamagedError as error:
            bad.append(Damage(key, error.message.rsplit("/", 1)[-1].split(" ", 1)[-1]))
    done = cache.done()
    with ThreadPoolExecutor(THREADS) as pool:
        for damages in pool.map(lambda pack: _verify_pack(cache, pack), sorted(done)):
            bad += damages
            advance(1)
    missing = [pack for pack in range(cache.packs) if pack not in done]
    return {
        "ok": not bad and not missing,
        "packs": cache.packs,
        "packs_missing": missing,
        "bad": [asdict(damage) | {"message": str(damage)} for damage in bad],
    }


def _verify_pack(cache: Cache, pack: int) -> list[Damage]:
    try:
        receipt = cache.receipt(pack)
    except CacheDamagedError as error:
        return [Damage(receipt_key(pack), error.message.split(": ", 1)[-1], pack)]
    assert receipt is not None
    bad = []
    for name in cache.specs:
        key = arrays.shard_key(name, pack)
        written = receipt["objects"][key]
        try:
            shard = cache.storage.get(key)
        except FileNotFoundError:
            owners = tuple(
                e.id for e in cache.pack_entries(pack) if e.num_frames and e.id not in receipt["quarantine"]
            )
            bad.append(Damage(key, "it is missing", pack, name, owners))
            continue
        if sha256(shard) != written["sha256"]:
            bad.append(
                Damage(key, "its bytes do not match its receipt", pack, name, _owners(cache, pack, name, shard))
            )
    return bad


def _owners(cache: Cache, pack: int, name: str, shard: bytes) -> tuple[str, ...]:
    """The utterances whose chunks in a damaged shard no longer decode."""
    base = pack * cache.identity["pack_frames"]
    entries = [entry for entry in cache.pack_entries(pack) if entry.num_frames]
    ranges = [(e.start_frame - base, e.start_frame - base + max(e.num_frames, e.num_rows)) for e in entries]
    return tuple(entries[position].id for position in arrays.damaged_rows(cache.specs[name], shard, ranges))
