"""`gdist copy` from the bucket to a folder, compared with a plain download of the same objects."""

import os
import subprocess
import time
from pathlib import Path

from bucket_steps.setting import Say, Setting, shards_of
from bucket_steps.trainings import GDIST
from gdist.pipeline.cache.cache import Cache


def run(setting: Setting, say: Say) -> None:
    """The time of a copy, less that of the same command with --dry-run, which is mostly Python's start."""
    for name in ("int8", "fp16"):
        uri, folder = setting.uri(name), setting.folder(name)
        with setting.new_folder() as copy:
            planning = min(_copied(uri, copy, "--dry-run") for _ in range(2))
            setting.line()
            seconds = _copied(uri, copy) - planning
            traffic = setting.bucket.traffic()
            shards = shards_of(Cache.open(str(folder)))
            plain = setting.bucket.download([f"{name}/{key}" for key in shards], traffic.connections)
            say(f"{name} copy_connections", float(traffic.connections))
            say(f"{name} copy_of_line", plain / seconds if seconds > 0 else "too short to be measured")
            say(f"{name} copy_bytes_of_cache", traffic.bytes / sum(shards.values()))


def _copied(uri: str, to: Path, *options: str) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        [*GDIST, "copy", uri, str(to), *options], capture_output=True, text=True, check=False, env=os.environ
    )
    if done.returncode:
        raise SystemExit(f"error: gdist copy ended with exit code {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - began
