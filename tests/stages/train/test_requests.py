"""What a training and an evaluation request of a bucket before they read the first shard: a handful, counted by the
proxy in front of a real S3 s3."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import extracted
from in_bucket import fill, s3_bucket
from servers import Flaky
from test_train import SHORT

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.summary import head_key, table_key
from gdist.pipeline.storage.objects import Storage

Gdist = Callable[..., Result]
SETTINGS = [part for name, value in SHORT.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flaky]:
    with s3_bucket(tmp_path_factory.mktemp("requests")) as flaky:
        yield flaky


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, speech: Path) -> Callable[[int], Path]:
    """A finished cache of all four layers that was grown so many times."""
    made: dict[int, Path] = {}

    def cache(grown: int) -> Path:
        if grown not in made:
            made[grown] = tmp_path_factory.mktemp("grown") / "cache"
            for layers in (["all"], ["0,1", "2,3"], ["0", "1", "2,3"])[grown]:
                extracted(tiny_teacher, speech, made[grown], layers=layers)
        return made[grown]

    return cache


def beside_shards(s3: Flaky) -> Counter[str]:
    """What was requested except shards: the keys, and the prefixes of listings."""
    return Counter(name for record in s3.saw() if "/c/" not in (name := named(record["path"])))


def named(path: str) -> str:
    key, _, query = path.partition("?")
    return (
        f"list {query.partition('prefix=')[2].partition('&')[0]}" if "list-type" in query else key.split("/", 3)[-1]
    )


@pytest.mark.parametrize("grown", [0, 1, 2])
@pytest.mark.parametrize("done", ["finished", "partial"])
@pytest.mark.thorough
def test_a_handful(
    s3: Flaky, gdist: Gdist, caches: Callable[[int], Path], tmp_path: Path, grown: int, done: str
) -> None:
    """The root and the index, one listing, and the two objects of each addition's summary. An addition that is not
    finished has none, but a receipt for each pack that is done. Besides, the teacher's config and front-end for
    training, and its front-end for an evaluation, which compares it with the student's."""
    uri, run = f"{s3.uri}/{done}-{grown}", tmp_path / "run"
    fill(uri, caches(grown))
    summarized, receipts, more = grown + 1, 0, []
    if done == "partial":
        storage = Storage(uri)
        last = Cache.open(uri).tasks[-1]
        storage.delete(
            [last.receipt, f"summaries/{last.addition:05d}.json", f"summaries/{last.addition:05d}.parquet"]
        )
        summarized, receipts, more = grown, last.pack, ["--set", "data.skip_missing=true"]
    expected = Counter({"zarr.json": 2, "index.parquet": 1, f"list {done}-{grown}%2F": 1})
    for number in range(grown + 1):
        expected[head_key(number)] += 1
        expected[table_key(number)] += number < summarized
    for command, documents in (("train", 2), ("eval", 1)):
        s3.does()
        options = ["--cache", uri, "--out", run, *SETTINGS, *more] if command == "train" else [run, "--probes", "sid"]
        result = gdist(command, *options)
        assert result.exit_code == 0, result.output
        seen = beside_shards(s3)
        of = Counter({"receipts": 0, "teacher": 0})
        of.update(name.split("/")[0] for name in seen.elements() if name.startswith(("receipts/", "teacher/")))
        assert (of["receipts"], of["teacher"]) == (receipts, documents)
        others = {name: n for name, n in seen.items() if not name.startswith(("receipts/", "teacher/"))}
        assert Counter(others) == +expected
        assert seen.total() - receipts <= 6 + 2 * (grown + 1)


def test_many_readers_ask_once(s3: Flaky, caches: Callable[[int], Path]) -> None:
    """An open cache from which sixteen threads read at once, without having been looked at before."""
    uri = f"{s3.uri}/readers"
    fill(uri, caches(1))
    s3.does()
    cache = Cache.open(uri)
    entries: list[Any] = [entry for entry in cache.entries if entry.num_frames]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda entry: cache.hidden(3, [(entry, 0, entry.num_frames)]), entries[:16]))
    seen = beside_shards(s3)
    assert max(seen.values()) == 1 and seen.total() <= 5, seen
