"""A process that fetches shards into a local folder, for tests of what several of them do:

    python fetching.py FOLDER LOG SECONDS SEED…

Each fetch takes so many seconds, and is a line of LOG. It imports little, so that many can be started.
"""

import sys
import time
from pathlib import Path

import numpy as np
import xxhash

from gdist.pipeline.local.folder import LocalFolder
from gdist.pipeline.local.kept import Bytes, KeptCache, Record

URI = "s3://bucket/libri"


def shard(seed: int, size: int = 5000) -> tuple[Record, Bytes]:
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return Record(size, xxhash.xxh3_128(data.tobytes()).hexdigest()), data


def opened(folder: Path, limit: int | None = None, uri: str = URI) -> KeptCache:
    return KeptCache(LocalFolder(folder, limit), uri, {"teacher": "tiny"})


def main(folder: Path, log: Path, seconds: float, seeds: list[int]) -> None:
    kept = opened(folder)
    for seed in seeds:
        record, data = shard(seed)

        def download(alive: object, seed: int = seed, data: Bytes = data) -> Bytes:
            with log.open("a") as file:
                file.write(f"{seed}\n")
            time.sleep(seconds)
            return data

        assert kept.fetched(record, download)[1] is None


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), list(map(int, sys.argv[4:])))
