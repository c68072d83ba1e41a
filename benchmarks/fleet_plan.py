"""What a large fleet holds of a cache before the first pack is handed out: what cluster.py calls `plan`.

The receipts are real objects in a store in memory, as many as there are packs. The index is made for fewer packs, and
what opening it takes is multiplied. Each figure is the growth of a process of its own, so that nothing is counted
twice.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from typing import Any

import psutil
from made_up import ABOUT, NOBODYS

from gdist.pipeline.cache import layout
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encode import COMPRESS
from gdist.pipeline.cache.plan import Plan, Tasks
from gdist.pipeline.framing import WAV2VEC2
from gdist.pipeline.storage.objects import Storage

KEYS_PER_LISTING = 1000  # of S3
IDENTITY: dict[str, Any] = NOBODYS | {
    "layers": [*range(13)], "dim": 768, "encoding": "fp16", "compress": COMPRESS, "framing": WAV2VEC2.to_dict(),
    "chunk_frames": 128, "pack_frames": 16_384,
}  # fmt: skip


def plan(options: argparse.Namespace) -> None:
    packs = options.total
    print(f"{packs:,} packs of {options.utterances_per_pack} utterances")
    listed, seconds, memory = apart(list_receipts, packs)
    requests = -(-packs // KEYS_PER_LISTING)
    print(f"  all tasks and the listing of {listed:,} receipts: {seconds:.1f} s and {memory / 1e6:.0f} MB")
    print(f"  in a bucket the listing is {requests} requests, one after another: "
          f"{requests * options.latency:.0f} s (computed)")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        apart(make_index, f"{folder}/cache", options.planned, options.utterances_per_pack)
        opened, seconds, memory = apart(open_index, f"{folder}/cache")
    times = packs / options.planned
    print(f"  opening a cache, by the client and by every worker: {seconds:.1f} s and {memory / 1e6:.0f} MB for "
          f"{opened:,} utterances (measured), {seconds * times:.0f} s and {memory * times / 1e9:.1f} GB for "
          f"{int(opened * times):,} (computed)")  # fmt: skip


def apart(work: Callable[..., None], *arguments: Any) -> tuple[int, float, int]:
    """(result, seconds, bytes of memory) of ``work``, in a process of its own, after its preparation."""
    receiving, sending = multiprocessing.Pipe(False)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(sending, *arguments))
    process.start()
    found: tuple[int, float, int] = receiving.recv()
    process.join()
    return found


def list_receipts(sending: Any, packs: int) -> None:
    """What `Ledger.todo` does when every pack is done."""
    storage = Storage("memory://listing", create=True)
    for first in range(0, packs, 1000):  # so that little memory is left over, in which what is measured would fit
        for task in Tasks(described(first, min(first + 1000, packs))):
            storage.put(task.receipt, b"")
    with Growth(sending) as growth:
        planned = Tasks(described(0, packs))
        keys = storage.objects("receipts")
        assert not [task for task in planned if task.receipt not in keys]
        growth.result = len(keys)


def described(first: int, stop: int) -> dict[str, Any]:
    """The part of a root document that says which packs there are."""
    return {"additions": [{"layers": IDENTITY["layers"], "waveform": True, "packs": [first, stop]}]}


def make_index(sending: Any, uri: str, packs: int, each: int) -> None:
    rows = IDENTITY["pack_frames"] // each // 128 * 128
    lengths = [(f"utterance-{number:09d}", rows * 320 - 400, None) for number in range(packs * each)]
    with Growth(sending):
        Cache.create(uri, Plan(IDENTITY, ABOUT, layout.place(lengths, 10**9)))


def open_index(sending: Any, uri: str) -> None:
    with Growth(sending) as growth:
        cache = Cache.open(uri)
        growth.result = len(cache.entries)


class Growth:
    """Sends (result, seconds, bytes by which this process grew)."""

    def __init__(self, sending: Any) -> None:
        self.sending, self.result = sending, 0

    def __enter__(self) -> "Growth":
        self.memory, self.began = psutil.Process().memory_info().rss, time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self.began
        self.sending.send((self.result, seconds, psutil.Process().memory_info().rss - self.memory))
