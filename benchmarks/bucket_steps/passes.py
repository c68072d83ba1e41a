"""Passes over a whole cache by the loader, as a training makes them: how fast, and with how many requests.

A pass reads all layers and the audio, in the order of an epoch, and takes each batch as soon as it is there.
"""

import statistics
import time
from pathlib import Path

from bucket_steps.server import Traffic
from bucket_steps.setting import Say, Setting, opened, shards_of
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading import loader
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import usable_entries

PART = 16_000_000  # one request for each shard and each 16 MB of it


class Passes:
    """Epochs of one loader.

    Args:
        epochs: nothing is read ahead of the last one.
    """

    def __init__(self, cache: Cache, batch_seconds: float, epochs: int = 1) -> None:
        entries = [entry for entry in cache.entries if entry.num_frames]
        selection = Selection(tuple(cache.layers), True)
        self.loader = Loader(cache, entries, selection, batch_seconds)
        self.counts = iter([len(self.loader.epoch_batches(epoch)) for epoch in range(epochs)])
        self.audio_seconds = sum(entry.num_frames for entry in entries) / cache.framing.frames_per_second
        self.batches = self.loader.stream(sum(len(self.loader.epoch_batches(epoch)) for epoch in range(epochs)))

    def epoch(self) -> float:
        """Seconds until the last batch of the next epoch is there."""
        count = next(self.counts)
        began = time.perf_counter()
        for _ in range(count):
            next(self.batches)
        return time.perf_counter() - began

    def close(self) -> None:
        self.batches.close()


def one_pass(cache: Cache, setting: Setting) -> float:
    """Seconds of one pass over an open cache."""
    passes = Passes(cache, setting.options.batch_seconds)
    try:
        return passes.epoch()
    finally:
        passes.close()


def run(setting: Setting, say: Say) -> None:
    """The figures of whole passes, for each encoding and each line."""
    loader.RESIDENT_BYTES = 0  # otherwise a cache that fits into memory would stay there
    for name in ("int8", "fp16"):
        folder = setting.folder(name)
        usual(setting, say, name, folder)
        for latency in (0.0, 0.1):
            setting.line(latency)
            seconds, traffic = first(setting, name)
            of_line(setting, say, f"{name} {1000 * latency:.0f} ms", folder, seconds, traffic)


def usual(setting: Setting, say: Say, name: str, folder: Path) -> None:
    """Everything about one cache behind a line of 30 ms."""
    shards = shards_of(Cache.open(str(folder)))
    units = sum(-(-size // PART) for size in shards.values())
    setting.line()
    with setting.new_folder() as near:
        cache = opened(setting.uri(name), near)
        usable_entries(cache, layers=cache.layers)
        say(f"{name} requests_to_open", float(setting.bucket.traffic().others))
    streams(setting, say, name, folder, units)
    setting.line()
    with setting.new_folder() as near:
        seconds = one_pass(opened(setting.uri(name), near), setting)
        traffic = setting.bucket.traffic()
        of_line(setting, say, f"{name} 30 ms", folder, seconds, traffic)
        say(f"{name} gets_per_shard", traffic.gets / units)
        say(f"{name} bytes_fetched_of_cache", traffic.bytes / sum(shards.values()))
        setting.line()
        ratios = []
        for _ in range(setting.options.rounds):
            plain = one_pass(Cache.open(str(folder)), setting)
            ratios.append(plain / one_pass(opened(setting.uri(name), near), setting))
        say(f"{name} second_pass_of_local", statistics.median(ratios))
        say(f"{name} second_pass_gets", float(setting.bucket.traffic().gets))
        say(f"{name} first_pass_of_local", plain / seconds)


def streams(setting: Setting, say: Say, name: str, folder: Path, units: int) -> None:
    """Without a local folder."""
    setting.line()
    passes = Passes(Cache.open(setting.uri(name)), setting.options.batch_seconds)
    before = setting.bucket.traffic()
    seconds, after = passes.epoch(), setting.bucket.traffic()
    passes.close()
    size = sum(shards_of(Cache.open(str(folder))).values())
    of_line(setting, say, f"{name} 30 ms, streamed", folder, seconds, after)
    say(f"{name} gets_per_shard, streamed", (after.gets - before.gets) / units)
    say(f"{name} bytes_fetched_of_cache, streamed", (after.bytes - before.bytes) / size)
    say(f"{name} pass_of_local, streamed", one_pass(Cache.open(str(folder)), setting) / seconds)


def first(setting: Setting, name: str) -> tuple[float, Traffic]:
    """Seconds of a first pass, and what it took."""
    with setting.new_folder() as near:
        seconds = one_pass(opened(setting.uri(name), near), setting)
        return seconds, setting.bucket.traffic()


def of_line(setting: Setting, say: Say, what: str, folder: Path, seconds: float, traffic: Traffic) -> None:
    """Compare a pass with a plain download of the same objects, over as many connections and the line as it is."""
    keys = [f"{folder.name}/{key}" for key in shards_of(Cache.open(str(folder)))]
    plain = setting.bucket.download(keys, traffic.connections)
    say(f"{what} connections", float(traffic.connections))
    say(f"{what} first_pass_of_line", plain / seconds)


def half(setting: Setting, say: Say) -> None:
    """A folder that may hold half of the cache: which share of the second pass it gives."""
    loader.RESIDENT_BYTES = 0
    shards = shards_of(Cache.open(str(setting.folder("many"))))
    size = sum(shards.values())
    setting.line()
    with setting.new_folder() as near:
        for number in (1, 2, 3):
            cache = opened(setting.uri("many"), near, size // 2)
            before = setting.bucket.traffic()
            one_pass(cache, setting)
            fetched = setting.bucket.traffic().bytes - before.bytes
            if number > 1:
                say(f"half_limit_hits, pass {number}", 1 - fetched / size)
        held = sum(path.stat().st_size for path in near.rglob("*") if path.is_file())
        say("half_limit_held_of_limit", held / (size // 2))
