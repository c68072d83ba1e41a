"""A finished cache opens in a handful of requests, from a sealed summary that is never trusted beyond its seal."""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import contents
from identities import ABOUT, NOBODYS

from gdist.pipeline.cache import standing
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encode import COMPRESS
from gdist.pipeline.cache.layout import place
from gdist.pipeline.cache.plan import Plan
from gdist.pipeline.cache.summary import head_key, table_key
from gdist.pipeline.cache.verify import verify
from gdist.pipeline.framing import WAV2VEC2
from gdist.pipeline.loading.splits import usable_entries
from gdist.pipeline.storage.objects import Storage, seal, unseal
from gdist.pipeline.storage.requests import Request
from gdist.stages.extract.extract import summarize
from gdist.stages.extract.inspection import describe

Gdist = Callable[..., Result]
HEAD, TABLE = head_key(0), table_key(0)


def plan_of(packs: int, **options: Any) -> Plan:
    """Utterances that fill a pack each, and one that is too short."""
    entries = place([("short", 10, None), *((f"u{i}", 256 * 320, None) for i in range(packs))], 10**9, 128, 256)
    identity = {"layers": [0, 2], "dim": 8, "encoding": "fp16", "chunk_frames": 128, "pack_frames": 256}
    identity |= {"compress": COMPRESS, "framing": WAV2VEC2.to_dict()}
    return Plan(
        NOBODYS | identity | options, ABOUT, entries, None, {"config.json": b"{}", "frontend.safetensors": b"F"}
    )


def fill(cache: Cache) -> Cache:
    """Commit every task that is not done, with rows that were never written."""
    for task in cache.todo():
        rows = {name: cache.specs[name].empty_pack() for name in cache.arrays_of(task)}
        measures = {"rms": 1 / (task.pack + 3), "max_abs": 1.0, "relative_error": 0.0, "cosine": 1.0}
        statistics = {"frames": 255, "layers": {f"{layer:02d}": measures for layer in task.layers}}
        quarantine = {e.id: e.problem for e in cache.pack_entries(task.pack) if e.problem}
        cache.commit(task, rows, quarantine, statistics)
    return cache


def finished(packs: int, uri: str | None = None) -> Cache:
    cache = fill(Cache.create(uri or f"memory://{uuid.uuid4()}", plan_of(packs)))
    assert cache.summarize() == [HEAD, TABLE] and cache.summarize() == []
    return cache


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """What is requested from a store: every request goes through one method, a page of a listing being one object."""
    counted: Counter[str] = Counter()
    repeat = Storage._repeat

    def counting(self: Storage, request: Request[Any], size: int = 0) -> Any:
        counted["requests"] += 1
        return repeat(self, request, size)

    monkeypatch.setattr(Storage, "_repeat", counting)
    yield counted


@pytest.mark.parametrize("listed", [True, False])
def test_a_finished_cache_opens_in_a_handful_of_requests(
    requests: Counter[str], monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    """The root, the index and the summary's document; with few objects also a listing, and the summary's table. As
    many for 40 packs as for 3."""
    if not listed:
        monkeypatch.setattr(standing, "BUCKET_LISTED", 0)
    costs = []
    for packs in (3, 40):
        uri = finished(packs).uri
        cost = {}
        uses: dict[str, Callable[[Cache], object]] = {
            "train": usable_entries,
            "inspect": describe,
            "quarantine": Cache.quarantine,
            "todo": Cache.todo,
            "result": lambda cache: summarize(cache, 0, 0.0, 1.0),
        }
        for name, use in uses.items():
            requests.clear()
            use(Cache.open(uri))
            cost[name] = requests["requests"]
        costs.append(cost)
    assert costs[0] == costs[1]
    assert costs[0] == (
        {"train": 5, "inspect": 5, "quarantine": 4, "todo": 4, "result": 5}
        if listed
        else {"train": 3, "inspect": 9, "quarantine": 3, "todo": 3, "result": 9}
    )


@pytest.mark.parametrize("listed", [True, False])
def test_it_says_what_the_receipts_say(monkeypatch: pytest.MonkeyPatch, listed: bool) -> None:
    if not listed:
        monkeypatch.setattr(standing, "BUCKET_LISTED", 0)
    cache = finished(5)
    assert cache.standing().summaries

    def everything() -> list[Any]:
        opened = Cache.open(cache.uri)
        use = usable_entries(opened)
        return [list(opened.receipts()), opened.quarantine(), opened.todo(), opened.done(), use, describe(opened)]

    with_summary = everything()
    for receipt, task in zip(with_summary[0], cache.tasks, strict=True):
        assert seal(receipt, receipt) == cache.storage.get(task.receipt), "bit for bit, whatever it contains"
    sizes = {key: len(cache.storage.get(key)) for key in (HEAD, TABLE)}
    cache.storage.delete([HEAD, TABLE])
    without = everything()
    without[-1]["objects"] += 2
    without[-1]["bytes"] += sum(sizes.values())
    for one, other in zip(with_summary, without, strict=True):
        assert one == other


def test_the_same_bytes_after_any_number_of_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each put in turn, while it is extracted and while it is summarized."""
    expected = contents(Path(finished(4, str(tmp_path / "whole")).uri))
    assert {HEAD, TABLE} <= expected.keys()
    put, stops = Storage.put, 0
    monkeypatch.setattr("gdist.pipeline.cache.ledger.WRITERS", 1)

    def run(uri: str, left: list[int]) -> None:
        def stopping(self: Storage, key: str, data: bytes) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            put(self, key, data)

        with monkeypatch.context() as patched:
            patched.setattr(Storage, "put", stopping)
            fill(Cache.create(uri, plan_of(4))).summarize()

    uri = str(tmp_path / "stopped")
    while True:
        try:
            run(uri, [stops])
            break
        except KeyboardInterrupt:
            stops += 1
            assert stops < 200
    assert stops > 10 and contents(Path(uri)) == expected


def test_growth_adds_one_and_an_older_plan_keeps_working(tmp_path: Path) -> None:
    cache = finished(3, str(tmp_path))
    before = contents(tmp_path)
    plan = plan_of(3, layers=[0, 1, 2])
    grown = Cache.create(cache.uri, Plan(plan.identity, plan.about, plan.entries, None, {}, cache.gdist))
    assert len(grown.todo()) == 3 and set(grown.standing().summaries) == {0}
    assert fill(grown).summarize() == [head_key(1), table_key(1)]
    after = contents(tmp_path)
    assert all(after[key] == before[key] for key in (HEAD, TABLE))
    old = Cache.open(cache.uri, cache.gdist["checksum"])
    assert old.todo() == [] and set(old.standing().summaries) == {0} and len(usable_entries(old)) == 3
    assert Cache.open(cache.uri).todo() == [] and len(list(grown.receipts())) == 6


class TestDistrust:
    """Without the summary, the answers are the same; and verify reports what is damaged."""

    @pytest.mark.parametrize("key", [HEAD, TABLE])
    @pytest.mark.parametrize("damage", ["missing", "torn", "empty", "another's"])
    def test_damage(self, tmp_path: Path, key: str, damage: str) -> None:
        cache, other = finished(4, str(tmp_path / "c")), finished(5, str(tmp_path / "other"))
        receipts = list(cache.receipts())
        data = cache.storage.get(key)
        if damage == "missing":
            cache.storage.delete([key])
        else:
            torn = {"torn": data[:40] + b"?" + data[41:], "empty": b"", "another's": other.storage.get(key)}
            cache.storage.put(key, torn[damage])
        opened = Cache.open(cache.uri)
        assert list(opened.receipts()) == receipts and opened.quarantine().keys() == {"short"}
        assert opened.todo() == [] and len(usable_entries(opened)) == 4
        found = verify(opened, lambda n=1, note="": None)
        bad = [damage["object"] for damage in found["bad"]]
        assert bad == ([] if (key, damage) == (HEAD, "missing") else [key])

    def test_a_receipt_that_is_gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where it is cheap it is noticed at once, and the summary is not used. Elsewhere verify notices."""
        cache = finished(4, str(tmp_path))
        cache.storage.delete([cache.tasks[2].receipt])
        assert [task.pack for task in cache.todo()] == [2] and not cache.standing().summaries
        monkeypatch.setattr(standing, "LISTED", 0)
        assert cache.todo() == [] and [task.pack for task in cache.todo(listed=True)] == [2]
        found = verify(cache, lambda n=1, note="": None)
        assert [bad["message"] for bad in found["bad"]] == [
            f"{cache.tasks[2].receipt}: it is missing; no data of pack 2 is lost"
        ]
        cache.storage.delete([HEAD, TABLE])
        assert verify(cache, lambda n=1, note="": None)["packs_missing"] == [2]

    def test_a_summary_of_other_receipts(self, tmp_path: Path) -> None:
        """As if someone had put a receipt there by hand, with another reason and a seal of its own."""
        cache = finished(4, str(tmp_path))
        receipt = unseal(cache.storage.get(cache.tasks[0].receipt))
        receipt["quarantine"]["short"] = "another reason"
        cache.storage.put(cache.tasks[0].receipt, seal(receipt, receipt))
        (bad,) = verify(cache, lambda n=1, note="": None)["bad"]
        assert (bad["object"], bad["reason"]) == (HEAD, "it does not match the receipts")


def test_extract_writes_it_and_the_commands_keep_it(gdist: Gdist, own_cache: Path, tiny_teacher: Path) -> None:
    """A cache from before there were summaries gets one, with the same bytes, when verify passes."""
    expected = contents(own_cache)
    assert {HEAD, TABLE} <= expected.keys()
    for key in (HEAD, TABLE):
        (own_cache / key).unlink()
    assert gdist("verify", own_cache).exit_code == 0 and contents(own_cache) == expected
    for key in (HEAD, TABLE):
        (own_cache / key).write_bytes(b"?")
        result = gdist("verify", own_cache, "--json")
        assert result.exit_code == 1 and [bad["object"] for bad in json.loads(result.stdout)["bad"]] == [key]
        result = gdist("verify", own_cache, "--repair", "--json")
        assert json.loads(result.stdout)["repaired"] == [key] and contents(own_cache) == expected
    shard, receipt = own_cache / "layers/02/c/4/0", own_cache / "receipts/00004.json"
    shard.unlink()
    document = unseal(receipt.read_bytes())
    document["objects"]["layers/02/c/4/0"]["bytes"] += 1  # as of a machine whose last bits differ
    receipt.write_bytes(seal(document, document))
    result = gdist("verify", own_cache, "--repair", "--teacher", tiny_teacher, "--json")
    assert result.exit_code == 0 and contents(own_cache) == expected, result.stdout
