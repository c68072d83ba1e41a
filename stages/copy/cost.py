"""What a copy sends, requests and costs, before it begins."""

import math
from dataclasses import dataclass
from typing import Any

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.duplicate import documents_of, records_of, require_place
from gdist.pipeline.cache.plan import WAVEFORM, Plan, layer_arrays
from gdist.pipeline.cache.transfer import Amount
from gdist.pipeline.storage.between import copier
from gdist.pipeline.storage.locations import folder_of, scheme_of
from gdist.pipeline.storage.objects import Storage
from gdist.stages.copy.part import Chosen
from gdist.stages.estimate.prices import Prices
from gdist.stages.extract.plan import describe

PAGE = 1000  # objects that a listing shows in one request
ONCE = 4  # writes and listings beside a copy's own objects: the lock and the marker, and looking at the place


@dataclass
class Requests:
    """Requests to buckets, and bytes that leave them for this machine."""

    gets: int = 0
    puts: int = 0
    egress_bytes: int = 0

    def read(self, objects: int, size: int) -> None:
        """Count whole objects that are read."""
        self.gets += objects
        self.egress_bytes += size

    def fields(self, prices: Prices) -> dict[str, Any]:
        """Return the fields that say what it costs."""
        cost = self.puts / 1000 * prices.put_1000 + self.gets / 1000 * prices.get_1000
        cost += self.egress_bytes / 1e9 * prices.egress_gb
        return {"gets": self.gets, "puts": self.puts, "egress_bytes": self.egress_bytes, "cost": cost}


def estimate(source: Cache, chosen: Chosen, plan: Plan | None, target: str, prices: Prices) -> dict[str, Any]:
    """Return the fields of ``gdist copy --dry-run --json`` (see docs/reference/json.md). Nothing is written.

    What is at the target counts as kept where it has the right size; a copy also compares its bytes.

    Args:
        plan: of the cache that the copy will be; None where it is the source itself.
    """
    exists = scheme_of(target) != "file" or folder_of(target).is_dir()
    place = Storage(target) if exists else None
    if place:
        require_place(place)
    sizes = {key: int(meta["size"]) for key, meta in place.objects().items()} if place else {}
    names = [*layer_arrays(source.identity, chosen.layers), WAVEFORM]
    stored = list(records_of(source, names))
    sent, kept, requests, receipts, by_store = Amount(), Amount(), Requests(), len(stored) // len(names), False
    if plan is not None and not chosen.keeps_bytes(source):
        found = describe(plan, 0)
        present = [size for key, size in sizes.items() if "/c/" in key]
        kept, sent = Amount(len(present), sum(present)), Amount(found["objects"], found["bytes"])
        share = found["frames"] / max(int(source.gdist["frames"]), 1)
        seconds = source.identity["pack_frames"] / source.framing.frames_per_second
        batches = math.ceil(seconds / source.identity["batch_seconds"])
        if source.storage.bucket:  # a shard's index, and ranges for each batch
            requests.read(round(len(stored) * share) * (1 + batches), round(sum(size for _, size in stored) * share))
    else:
        documents = documents_of(source) if plan is None else plan.documents()
        found = {key: len(data) for key, data in documents.items()}
        if plan is None:
            found |= source.summary_sizes()
        for key, size in [*stored, *found.items()]:
            (kept if sizes.get(key) == size else sent).add(size)
        by_store = place is not None and copier(source.storage, place) is not None
        if source.storage.bucket:
            requests.read(receipts + len(found), sum(found.values()))
            if not by_store:
                requests.read(sent.objects, sent.bytes)
        sent.objects += receipts
    if place is not None and place.bucket:
        requests.puts += sent.objects + ONCE + len(sizes) // PAGE
        requests.read(sent.objects + kept.objects, sent.bytes + kept.bytes)  # everything is read back
    return {
        "source": source.uri,
        "cache": target,
        "packs": source.packs if plan is None else plan.packs,
        "objects": sent.objects,
        "bytes": sent.bytes,
        "objects_kept": kept.objects,
        "bytes_kept": kept.bytes,
        "by_store": by_store,
        **requests.fields(prices),
    }
