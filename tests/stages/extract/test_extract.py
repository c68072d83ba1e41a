"""Stage one: equal to Hugging Face on the stored samples, and the same bytes however often it is killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from click.testing import Result
from conftest import PACK_FRAMES, contents, extracted, free_port, make_teacher
from test_train import short

from gdist.pipeline.audio import load_utterance
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import CacheDamagedError, CacheMismatchError, ConfigError, UsageError
from gdist.pipeline.framing import WAV2VEC2
from gdist.pipeline.manifest.table import Manifest, build
from gdist.pipeline.storage.objects import Storage
from gdist.stages.device import choose_device
from gdist.stages.extract.batching import batches
from gdist.stages.extract.plan import ExtractConfig, parse_layers
from gdist.stages.train.train import train

Gdist = Callable[..., Result]


class TestValues:
    def test_hidden_states_equal_hugging_face(self, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        """Each utterance runs alone through the model of transformers, on the samples that the cache stored."""
        from transformers import AutoModel

        extracted(tiny_teacher, speech, tmp_path / "c", encoding="fp32")
        cache = Cache.open(str(tmp_path / "c"))
        model = AutoModel.from_pretrained(tiny_teacher).eval()
        for entry in cache.entries:
            span = (entry, 0, entry.num_frames)
            (samples,) = cache.waveform([span])
            with torch.inference_mode():
                expected = model(torch.from_numpy(samples)[None].float() / 32_768, output_hidden_states=True)
            assert len(expected.hidden_states) == len(cache.layers) == 4
            for layer, hidden in enumerate(expected.hidden_states):
                stored = cache.hidden(layer, [span])[0]
                assert stored.shape == hidden[0].shape
                torch.testing.assert_close(stored, hidden[0], atol=1e-4, rtol=0)

    def test_the_stored_samples_are_the_audio(self, tiny_cache: Path, speech: Path) -> None:
        cache = Cache.open(str(tiny_cache))
        utterances = Manifest.read(speech).utterances()
        assert [entry.id for entry in cache.entries] == [utterance.id for utterance in utterances]
        for entry, u in zip(cache.entries, utterances, strict=True):
            assert u.num_samples is not None and u.sample_rate is not None
            samples = load_utterance(u.segment)
            assert np.array_equal(cache.waveform([(entry, 0, entry.num_frames)])[0], samples)
            assert entry.labels == u.labels

    def test_a_subset_of_layers_has_the_same_bytes(
        self, tiny_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path
    ) -> None:
        extracted(tiny_teacher, speech, tmp_path, layers="0,2-3")
        whole, some = Cache.open(str(tiny_cache)), Cache.open(str(tmp_path))
        assert some.layers == [0, 2, 3]
        for key in contents(tmp_path):
            if key.startswith(("layers/0", "waveform")):
                assert (tmp_path / key).read_bytes() == (tiny_cache / key).read_bytes(), key
        assert not (tmp_path / "layers/01").exists() and whole.layers == [0, 1, 2, 3]

    def test_lossy_encodings_are_rounded_once(
        self, tiny_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path
    ) -> None:
        extracted(tiny_teacher, speech, tmp_path / "fp32", encoding="fp32")
        exact, half = Cache.open(str(tmp_path / "fp32")), Cache.open(str(tiny_cache))
        spans = [(e, 0, e.num_frames) for e in exact.entries]
        for layer in exact.layers:
            for whole, rounded in zip(exact.hidden(layer, spans), half.hidden(layer, spans), strict=True):
                assert torch.equal(whole.half().float(), rounded)

    def test_a_long_layout_with_layer_norm(self, speech: Path, tmp_path: Path) -> None:
        """With and without the final LayerNorm of a Large model, only the last layer differs."""
        large = make_teacher(tmp_path / "large", feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True)
        extracted(large, speech, tmp_path / "before")
        extracted(large, speech, tmp_path / "after", final_norm=True)
        before, after = Cache.open(str(tmp_path / "before")), Cache.open(str(tmp_path / "after"))
        span = (before.entries[0], 0, before.entries[0].num_frames)
        for layer in before.layers:
            same = torch.equal(before.hidden(layer, [span])[0], after.hidden(layer, [span])[0])
            assert same == (layer < 3)
        with pytest.raises(CacheMismatchError, match=r"teacher\.final_norm: True → False"):
            extracted(large, speech, tmp_path / "after")


class TestTheRun:
    def test_what_it_reports(self, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        result = extracted(tiny_teacher, speech, tmp_path)
        entries = Cache.open(str(tmp_path)).entries
        assert result["utterances"] == len(entries) == 30
        assert result["frames"] == sum(WAV2VEC2.num_frames(e.num_samples) for e in entries)
        assert result["audio_seconds"] == pytest.approx(sum(e.num_samples for e in entries) / 16_000)
        assert result["bytes"] == sum(map(len, contents(tmp_path).values()))
        assert (result["packs"], result["packs_resumed"], result["quarantined"]) == (9, 0, 0)
        assert result["realtime_factor"] == pytest.approx(result["audio_seconds"] / result["seconds"])

    def test_running_again_changes_nothing(self, tiny_teacher: Path, speech: Path, own_cache: Path) -> None:
        before = contents(own_cache)
        assert extracted(tiny_teacher, speech, own_cache)["packs_resumed"] == 9
        assert contents(own_cache) == before

    @pytest.mark.parametrize("lost", [[0], [3, 8], list(range(9))])
    def test_packs_with_lost_receipts_are_extracted_again(
        self, tiny_teacher: Path, speech: Path, own_cache: Path, lost: list[int]
    ) -> None:
        before = contents(own_cache)
        for pack in lost:
            (own_cache / f"receipts/{pack:05d}.json").unlink()
            (own_cache / f"layers/01/c/{pack}/0").write_bytes(b"torn")
        assert extracted(tiny_teacher, speech, own_cache)["packs_resumed"] == 9 - len(lost)
        assert contents(own_cache) == before

    def test_the_path_of_the_teacher_is_not_in_the_cache(
        self, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path
    ) -> None:
        moved = shutil.copytree(tiny_teacher, tmp_path / "elsewhere" / tiny_teacher.name)
        extracted(moved, speech, tmp_path / "cache")
        assert contents(tmp_path / "cache") == contents(tiny_cache)
        assert str(tmp_path).encode() not in b"".join(contents(tmp_path / "cache").values())

    def test_files_that_change_between_two_runs_are_quarantined(
        self, tiny_teacher: Path, tmp_path: Path, gdist: Gdist
    ) -> None:
        """If the manifest gives no lengths, the files' headers may have changed since the cache was planned."""
        noise = np.random.default_rng(0).normal(0, 0.1, 32_000)
        for name in ("kept", "gone", "grown"):
            soundfile.write(tmp_path / f"{name}.wav", noise[:16_000], 16_000)
        rows = [{"id": name, "path": str(tmp_path / f"{name}.wav")} for name in ("kept", "gone", "grown")]
        Manifest(pa.Table.from_pylist(rows), str(tmp_path)).write(tmp_path / "m.parquet")
        cache = tmp_path / "cache"
        extracted(tiny_teacher, tmp_path / "m.parquet", cache)
        (cache / "receipts/00000.json").unlink()  # as if killed before the pack was done
        (tmp_path / "gone.wav").unlink()
        soundfile.write(tmp_path / "grown.wav", noise, 16_000)
        result = extracted(tiny_teacher, tmp_path / "m.parquet", cache)
        assert result["utterances"] == 1 and set(result["quarantine"]) == {"gone", "grown"}
        assert result["quarantine"]["gone"].startswith("can no longer be read")
        assert "32000 samples at 16 kHz, 16000 when planned" in result["quarantine"]["grown"]
        assert gdist("verify", cache).exit_code == 0

    def test_a_dry_run_writes_nothing(
        self, tiny_teacher: Path, speech: Path, tmp_path: Path, own_cache: Path
    ) -> None:
        before = contents(own_cache)
        fresh = extracted(tiny_teacher, speech, tmp_path / "none", dry_run=True)
        (own_cache / "receipts/00004.json").unlink()
        resumed = extracted(tiny_teacher, speech, own_cache, dry_run=True)
        assert not (tmp_path / "none").exists()
        assert contents(own_cache).keys() == before.keys() - {"receipts/00004.json"}
        assert (fresh["packs"], fresh["packs_resumed"], resumed["packs_resumed"]) == (9, 0, 8)
        assert fresh["objects"] == len([key for key in before if "/c/" in key or key.startswith("receipts/")])
        # An upper bound on what is stored, which is compressed.
        assert 0.5 * fresh["bytes"] < sum(len(v) for k, v in before.items() if "/c/" in k) < 1.05 * fresh["bytes"]
        with pytest.raises(CacheMismatchError, match="encoding: fp16 → fp32"):
            extracted(tiny_teacher, speech, own_cache, dry_run=True, encoding="fp32")

    def test_restart_replaces_the_cache(self, tiny_teacher: Path, speech: Path, own_cache: Path) -> None:
        (own_cache / "notes.txt").write_text("mine")
        extracted(tiny_teacher, speech, own_cache, layers="1", restart=True)
        assert Cache.open(str(own_cache)).layers == [1]
        assert not [key for key in contents(own_cache) if key.startswith(("layers/00", "layers/02", "planning"))]
        assert (own_cache / "notes.txt").read_text() == "mine"

    @pytest.mark.parametrize(
        ("options", "difference"),
        [
            ({"encoding": "bf16"}, "encoding: fp16 → bf16"),
            ({"precision": "bf16"}, "precision: fp32 → bf16"),
            ({"batch_seconds": 5.0}, "batch_seconds: 32.0 → 5.0"),
            ({"pack_frames": 256}, "pack_frames: 512 → 256"),
            ({"max_seconds": 9.0}, "max_seconds: 60.0 → 9.0"),
        ],
    )
    def test_different_options_are_refused(
        self, tiny_teacher: Path, speech: Path, tiny_cache: Path, options: dict[str, Any], difference: str
    ) -> None:
        before = contents(tiny_cache)
        with pytest.raises(CacheMismatchError, match=difference):
            extracted(tiny_teacher, speech, tiny_cache, **options)
        assert contents(tiny_cache) == before

    def test_a_different_manifest_is_refused(
        self, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path
    ) -> None:
        manifest = Manifest.read(speech)
        Manifest(manifest.table.slice(1), manifest.root).write(tmp_path / "fewer.parquet")
        with pytest.raises(CacheMismatchError, match=r"manifest: \w+ → 1 of its utterances are not in this one"):
            extracted(tiny_teacher, tmp_path / "fewer.parquet", tiny_cache)

    def test_values_that_cannot_be_encoded_are_quarantined(
        self, tiny_teacher: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the teacher overflows on one utterance of a batch, only that utterance is lost."""
        from gdist.stages.teachers import Teacher

        victim = Cache.open(str(tmp_path / "ok")) if extracted(tiny_teacher, speech, tmp_path / "ok") else None
        assert victim is not None
        length = victim.entries[4].num_samples
        original = Teacher.hidden_states

        def overflowing(
            self: Teacher, waveform: torch.Tensor, lengths: torch.Tensor, last_layer: int | None = None
        ) -> Iterator[torch.Tensor]:
            for layer, hidden in enumerate(original(self, waveform, lengths, last_layer)):
                if layer == 2:
                    hidden = hidden.clone()
                    hidden[lengths == length, 3, 5] = 1e5
                yield hidden

        monkeypatch.setattr(Teacher, "hidden_states", overflowing)
        result = extracted(tiny_teacher, speech, tmp_path / "c")
        name = victim.entries[4].id
        assert result["quarantine"] == {name: "layer 2: values up to 100000 overflow fp16 (largest 65504)"}
        cache = Cache.open(str(tmp_path / "c"))
        for entry in cache.entries:
            span = (entry, 0, entry.num_frames)
            if entry.id != name:
                assert torch.equal(cache.hidden(3, [span])[0], victim.hidden(3, [span])[0])
                continue
            for layer in cache.layers:  # not even the layers below the overflow are stored
                with pytest.raises(CacheDamagedError, match=f"utterance {name} is missing"):
                    cache.hidden(layer, [span])
            with pytest.raises(CacheDamagedError, match=f"utterance {name} is missing"):
                cache.waveform([span])
        statistics = [receipt["statistics"] for receipt in cache.receipts()]
        assert sum(pack["frames"] for pack in statistics) == result["frames"]
        assert max(pack["layers"]["02"]["max_abs"] for pack in statistics) < 100


@pytest.mark.parametrize(
    ("text", "layers"), [("all", [0, 1, 2, 3]), ("2", [2]), ("3,0", [0, 3]), ("0-2, 1 - 3", [0, 1, 2, 3])]
)
def test_layers(text: str, layers: list[int]) -> None:
    assert parse_layers(text, 3) == layers


@pytest.mark.parametrize("text", ["", "4", "0-4", "3-1", "-1", "a", "1,", "1-2-3", "²", "0-99999999999", "1.5"])
def test_invalid_layers(text: str) -> None:
    with pytest.raises(UsageError, match=r"--layers '.*': "):
        parse_layers(text, 3)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta", "mps", "cuda:x", ""])
def test_invalid_devices(device: str) -> None:
    with pytest.raises(UsageError, match=f"--device {device}: "):
        choose_device(device, "--device ")


@pytest.mark.parametrize(
    "options",
    [
        {"max_seconds": 0.0}, {"max_seconds": float("nan")}, {"max_seconds": float("inf")}, {"batch_seconds": 0.0},
        {"batch_seconds": -1.0}, {"pack_frames": 0}, {"pack_frames": 100}, {"encoding": "fp8"},
    ],
)  # fmt: skip
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ExtractConfig("t", "m", "c", **options)


def test_batches_respect_the_limit(tiny_cache: Path) -> None:
    entries = Cache.open(str(tiny_cache)).entries
    found = list(batches(entries, 4 * 16_000))
    assert sorted(e.id for batch in found for e in batch) == sorted(e.id for e in entries)
    assert all(len(b) == 1 or len(b) * max(e.num_samples for e in b) <= 4 * 16_000 for b in found)
    assert any(len(batch) > 2 for batch in found)


def test_lengths_missing_from_the_manifest_come_from_the_headers(
    tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path
) -> None:
    """If the table gives nothing but the paths of whole files, the data is the same as with lengths given."""
    cache = Cache.open(str(tiny_cache))
    (tmp_path / "audio").mkdir()
    for entry in cache.entries[:6]:
        samples = cache.waveform([(entry, 0, entry.num_frames)])[0]
        soundfile.write(tmp_path / "audio" / f"{entry.id}.wav", samples, 16_000, subtype="PCM_16")
    names = [entry.id for entry in cache.entries[:6]]
    table = pa.table({"id": names, "path": [f"audio/{name}.wav" for name in names]})
    Manifest(table, str(tmp_path)).write(tmp_path / "open.parquet")
    assert extracted(tiny_teacher, tmp_path / "open.parquet", tmp_path / "c")["utterances"] == 6
    again = Cache.open(str(tmp_path / "c"))
    for entry, other in zip(again.entries, cache.entries, strict=False):
        assert entry.num_samples == other.num_samples
        span = (entry, 0, entry.num_frames)
        whole = cache.hidden(3, [(other, 0, other.num_frames)])[0]
        torch.testing.assert_close(again.hidden(3, [span])[0], whole, atol=4e-3, rtol=0)  # other batches, fp16
    build(tmp_path / "audio", tmp_path / "built.parquet")  # from a folder: lengths filled in, another manifest
    assert extracted(tiny_teacher, tmp_path / "built.parquet", tmp_path / "d")["frames"] == sum(
        e.num_frames for e in again.entries
    )


# --- killed ---------------------------------------------------------------------------------------------------------

# This process has imported everything and forks one `gdist` for each line it reads: a real process to kill, without
# the cost of importing torch each time. A line has the number of writes before it sends itself a signal (-1: it never
# does), which signal, its environment variables, and its arguments.
NURSERY = """
import json, os, signal, sys
import obstore, torch
import transformers.models.wavlm.modeling_wavlm
from gdist.stages import extract, teachers
from gdist.stages.cli import main
from gdist.pipeline.storage.objects import Storage

print("ready", flush=True)
for line in sys.stdin:
    lives, number, environment, args = json.loads(line)
    child = os.fork()
    if child:
        print("started", child, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.dup2(2, 1)  # stdout is the test's: what the child prints must not go there
    os.environ.update(environment)
    torch.set_num_threads(1)
    original_put, left = obstore.put, iter(range(lives))
    def put(*args, **kwargs):
        global lives
        if lives >= 0 and next(left, None) is None:
            lives = -1
            os.kill(os.getpid(), number)
        return original_put(*args, **kwargs)
    obstore.put = put
    main(args)
"""


class Nursery:
    def __init__(self, log: IO[bytes]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.child, self.ready = 0, False

    def expect(self, word: str) -> int:
        """The number after ``word``, with which the next line must begin."""
        assert self.process.stdout is not None
        first, *rest = self.process.stdout.readline().split() or ["nothing"]
        assert first == word, f"the nursery says {first}, not {word}"
        return int(rest[0]) if rest else 0

    def start(self, *args: object, lives: int = -1, by: signal.Signals = signal.SIGKILL) -> None:
        """Start a `gdist` that sends itself a signal before its write number ``lives``, counted from zero."""
        assert self.process.stdin is not None
        if not self.ready:
            self.expect("ready")
            self.ready = True
        self.process.stdin.write(json.dumps([lives, by, dict(os.environ), list(map(str, args))]) + "\n")
        self.process.stdin.flush()
        self.child = self.expect("started")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the started process, if it still runs."""
        assert self.child > 1
        with suppress(ProcessLookupError):
            os.kill(self.child, number)

    def exit_code(self) -> int:
        """Wait for the started process. Returns its exit code, which is −9 if it was killed."""
        return self.expect("ended")


@pytest.fixture(scope="module", autouse=True)  # it imports while the first tests run
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with (tmp_path_factory.mktemp("nursery") / "stderr").open("wb") as log:
        nursery = Nursery(log)
        yield nursery
        nursery.process.kill()  # all its children have ended
        nursery.process.communicate()


def command(teacher: Path, manifest: Path, cache: object) -> list[object]:
    fixed = ["--pack-frames", PACK_FRAMES, "--device", "cpu"]
    return ["extract", "--teacher", teacher, "--manifest", manifest, "--cache", cache, *fixed]


class TestKilled:
    """After `kill -9`, the same command leaves every file as if nothing had happened."""

    @pytest.mark.thorough
    def test_before_each_kind_of_write(
        self, nursery: Nursery, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
    ) -> None:
        folder, kills = tmp_path / "c", 0
        # The commands run one after another in one folder. They die at the marker, within the plan, before the root
        # document, between the shards of a pack, before its receipt, and so on.
        for lives in (0, 1, 6, 10, 12, 3, 7, 17, 1, 23):
            nursery.start(*command(tiny_teacher, speech, folder), lives=lives)
            assert nursery.exit_code() == -signal.SIGKILL
            kills += 1
            if (folder / "zarr.json").exists():  # an unfinished cache, which `verify` must recognize as one
                result = gdist("verify", folder, "--json")
                assert result.exit_code == 1
                assert '"bad": []' in result.stdout and '"packs_missing": []' not in result.stdout
        # A kill during a write leaves temporary files of obstore behind.
        (folder / "layers/02/c/8").mkdir(parents=True, exist_ok=True)
        (folder / "layers/02/c/8/0#1").write_bytes(b"half a sha")
        (folder / "receipts/00008.json#1").write_bytes(b"{")
        nursery.start(*command(tiny_teacher, speech, folder))
        assert nursery.exit_code() == 0
        assert kills == 10
        assert contents(folder) == contents(tiny_cache)

    @pytest.mark.thorough
    def test_at_random_moments(
        self, nursery: Nursery, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path
    ) -> None:
        folder, rng = tmp_path / "c", random.Random()
        for more in (0, 1, 4, 9, 15):  # new files before the kill; the whole cache has 65
            nursery.start(*command(tiny_teacher, speech, folder))
            seen, deadline = len(files_of(folder)), time.monotonic() + 60
            while len(files_of(folder)) < seen + more and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.02))
            nursery.send(signal.SIGKILL)
            assert nursery.exit_code() == -signal.SIGKILL
        nursery.start(*command(tiny_teacher, speech, folder))
        assert nursery.exit_code() == 0
        assert contents(folder) == contents(tiny_cache)

    @pytest.mark.parametrize(  # of 65
        "lives", [0, 7, 29, *(pytest.param(lives, marks=pytest.mark.thorough) for lives in (2, 12, 50))]
    )
    def test_an_interrupted_run_exits_with_130_and_can_be_resumed(
        self, nursery: Nursery, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path, lives: int
    ) -> None:
        nursery.start(*command(tiny_teacher, speech, tmp_path / "c"), lives=lives, by=signal.SIGINT)
        assert nursery.exit_code() == 130
        extracted(tiny_teacher, speech, tmp_path / "c")
        assert contents(tmp_path / "c") == contents(tiny_cache)


def files_of(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names if "#" not in name]


# --- a bucket -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket on a real S3 server, which runs in its own process, with credentials in the environment."""
    pytest.importorskip("moto.server")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", endpoint)
            environment.setenv("AWS_ACCESS_KEY_ID", "key")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            environment.setenv("AWS_REGION", "us-east-1")
            deadline = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/speech", method="PUT"), timeout=5)
                    break
                except OSError:
                    assert time.monotonic() < deadline and server.poll() is None, "the S3 server does not start"
                    time.sleep(0.1)
            yield "s3://speech"
    finally:
        server.kill()
        server.wait()
        log.close()


class TestBucket:
    def test_the_same_objects_as_in_a_folder(
        self, bucket: str, tiny_teacher: Path, speech: Path, tiny_cache: Path, gdist: Gdist
    ) -> None:
        uri = f"{bucket}/a/cache"
        result = gdist(*command(tiny_teacher, speech, uri), "--json")
        assert result.exit_code == 0, result.output
        storage = Storage(uri)
        assert {key: storage.get(key) for key in storage.objects()} == contents(tiny_cache)
        inspected = gdist("inspect", uri)
        assert inspected.exit_code == 0 and "30 utterances" in inspected.stdout
        assert gdist("verify", uri).exit_code == 0
        entry = Cache.open(uri).entries[5]
        span = (entry, 1, 2)
        assert torch.equal(Cache.open(uri).hidden(2, [span])[0], Cache.open(str(tiny_cache)).hidden(2, [span])[0])
        storage.put("layers/02/c/1/0", b"torn")
        damaged = gdist("verify", uri)
        assert damaged.exit_code == 1 and "layers/02/c/1/0" in damaged.stderr and "layer 2" in damaged.stderr

    def test_killed_and_resumed(
        self, bucket: str, nursery: Nursery, tiny_teacher: Path, speech: Path, tiny_cache: Path
    ) -> None:
        uri = f"{bucket}/b"
        for lives in (4, 15, 9):
            nursery.start(*command(tiny_teacher, speech, uri), lives=lives)
            assert nursery.exit_code() == -signal.SIGKILL
        nursery.start(*command(tiny_teacher, speech, uri))
        assert nursery.exit_code() == 0
        storage = Storage(uri)
        assert {key: storage.get(key) for key in storage.objects()} == contents(tiny_cache)
        assert extracted(tiny_teacher, speech, uri, layers="0", restart=True)["packs_resumed"] == 0
        assert gdist_layers(uri) == [0]

    def test_training_from_it(
        self, bucket: str, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path
    ) -> None:
        uri = f"{bucket}/c"
        extracted(tiny_teacher, speech, uri)
        for where, name in ((uri, "bucket"), (str(tiny_cache), "folder")):
            train(where, tmp_path / name, short(), show_progress=False)
        assert contents(tmp_path / "bucket" / "student") == contents(tmp_path / "folder" / "student")

    def test_no_such_bucket(self, bucket: str, tiny_teacher: Path, speech: Path, gdist: Gdist) -> None:
        result = gdist(*command(tiny_teacher, speech, "s3://nowhere/x"))
        assert result.exit_code == 1
        assert (
            result.stderr.startswith("error: cannot read s3://nowhere/x")
            and "there is no such bucket" in result.stderr
        )

    def test_no_cache_there(self, bucket: str, gdist: Gdist) -> None:
        result = gdist("inspect", f"{bucket}/empty")
        assert result.exit_code == 1 and f"no cache at {bucket}/empty" in result.stderr


def gdist_layers(uri: str) -> list[int]:
    return Cache.open(uri).layers
