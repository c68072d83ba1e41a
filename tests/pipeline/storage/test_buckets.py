"""A real S3 server behind a proxy that misbehaves: runs finish with the same bytes, and failures say why."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import Result
from conftest import contents
from in_bucket import extract, fill, stored
from servers import Flaky, chosen, proxied
from test_train import COMMAND, SHORT, wait_for_step

from gdist.data_manifests import demo_folder
from gdist.pipeline.audio import Header, Segment, load_utterance, read_header
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import AudioError, CacheError
from gdist.pipeline.manifest.table import Manifest, build
from gdist.pipeline.run import Run
from gdist.pipeline.storage.objects import Storage
from gdist.pipeline.storage.patience import Patience

Gdist = Callable[..., Result]


@pytest.fixture(scope="module", params=chosen())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flaky]:
    """Each server, behind the proxy."""
    folder = tmp_path_factory.mktemp("server")
    with proxied(request.param, folder, "flaky-speech", AWS_MAX_ATTEMPTS="4", GDIST_STORE_TIMEOUT="0.5") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def cache_uri(server: Flaky, tiny_cache: Path) -> str:
    """``tiny_cache`` in the bucket, for reading only."""
    uri = f"{server.uri}/shared"
    fill(uri, tiny_cache)
    return uri


# --- what passes ----------------------------------------------------------------------------------------------------

LOUD = ["status", "reset", "reset-after", "cut-upload"]
SILENT = ["silence", "silence-after", "stall-upload"]
OF_READS = ["status", "reset", "silence", "cut-download", "stall-download"]


class TestTheRunContinues:
    def test_each_fault_at_each_kind_of_request(
        self, flaky: Flaky, gdist: Gdist, tiny_teacher: Path, speech: Path, tiny_cache: Path
    ) -> None:
        """Each upload fault at a shard, the loud ones at a receipt too; documents and listings have their own."""
        uri = f"{flaky.uri}/each"
        rules: list[dict[str, Any]] = [
            {"fault": "reset-after", "method": "PUT", "path": r"/each/zarr\.json"},
            {"fault": "stall-download", "method": "GET", "path": "index.parquet"},
            {"fault": "cut-download", "method": "GET", "path": "list"},
            {"fault": "reset-after", "method": "POST", "path": "delete|batch"},
        ]
        for pack, fault in enumerate(LOUD + SILENT):
            rules.append({"fault": fault, "method": "PUT", "path": f"/layers/02/c/{pack}/0"})
            if fault in LOUD:
                rules.append({"fault": fault, "method": "PUT", "path": f"/receipts/0000{pack}"})
        flaky.does(*(rule | {"times": 1} for rule in rules))
        result = gdist(*extract(tiny_teacher, speech, uri))
        assert result.exit_code == 0, result.output
        assert sorted(flaky.faults()) == sorted(rule["fault"] for rule in rules)
        flaky.does()
        assert stored(uri) == contents(tiny_cache)

    @pytest.mark.parametrize("fault", OF_READS)
    def test_reads_and_listings(self, flaky: Flaky, fault: str) -> None:
        """A fault in the body too: obstore's own retries do not cover the body of a listing."""
        storage = Storage(f"{flaky.uri}/reads")
        flaky.does()
        storage.put("k", b"0123456789")
        flaky.does({"fault": fault, "path": "reads/k", "times": 1}, {"fault": fault, "path": "list", "times": 1})
        assert storage.get("k") == b"0123456789" and list(storage.objects()) == ["k"]
        assert flaky.faults() == [fault] * 2
        flaky.does({"fault": fault, "times": 1})
        part, size = storage.get_part("k", 2, 3)
        assert (bytes(part), size) == (b"234", 10)
        assert len(flaky.saw()) == 2

    def test_all_of_it_at_random(
        self, flaky: Flaky, gdist: Gdist, tiny_teacher: Path, speech: Path, tiny_cache: Path
    ) -> None:
        """Every tenth request fails in one way or another; then the cache is verified over the same connection."""
        uri = f"{flaky.uri}/random"
        flaky.does({"faults": [*LOUD, "cut-download"], "rate": 0.1, "seed": 1})
        assert gdist(*extract(tiny_teacher, speech, uri)).exit_code == 0
        assert len(set(flaky.faults())) >= 3
        assert gdist("verify", uri).exit_code == 0
        flaky.does()
        assert stored(uri) == contents(tiny_cache)

    def test_reading_batches(self, flaky: Flaky, cache_uri: str, tiny_cache: Path) -> None:
        """Ranges of chunks, which zarr reads itself."""
        here, there = Cache.open(str(tiny_cache)), Cache.open(cache_uri)
        flaky.does(*({"fault": f, "path": f"layers/03/c/{pack}/", "times": 1} for pack, f in enumerate(OF_READS)))
        for pack in range(len(OF_READS)):
            entry = here.pack_entries(pack)[0]
            span = (entry, 0, entry.num_frames)
            assert there.hidden(3, [span])[0].equal(here.hidden(3, [span])[0])
            assert np.array_equal(there.waveform([span])[0], here.waveform([span])[0])
        assert flaky.faults() == OF_READS

    def test_a_large_object(self, flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
        """More than sockets buffer: the body really stops halfway; and each object is one request."""
        monkeypatch.setattr("gdist.pipeline.storage.patience.SLOWEST_UPLOAD", 64 << 20)
        storage = Storage(f"{flaky.uri}/large")
        data = np.random.default_rng(0).bytes(12_000_000)
        for fault in ("stall-upload", "cut-upload"):
            flaky.does({"fault": fault, "method": "PUT", "times": 1})
            storage.put(fault, data)
            assert [(r["method"], r["fault"], r["up"]) for r in flaky.saw()] == [
                ("PUT", fault, len(data)),
                ("PUT", None, len(data)),
            ]
        for fault in ("stall-download", "cut-download"):
            flaky.does({"fault": fault, "method": "GET", "times": 1})
            assert storage.get("stall-upload") == data
            assert len(flaky.saw()) == 2

    def test_a_slow_connection_is_not_a_stall(self, flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
        """An upload gets time for its size, twice as much after each time-out; a download only has to keep moving."""
        monkeypatch.setattr("gdist.pipeline.storage.patience.SLOWEST_UPLOAD", 4 << 20)
        storage, data = Storage(f"{flaky.uri}/slow"), bytes(8 << 20)
        storage.put("reached", b"")
        flaky.does({"method": "PUT", "delay": 2.6})  # longer than 0.5 s + 8 MiB at 4 MiB/s; the next try has 4.5 s
        storage.put("k", data)
        assert len(flaky.saw()) >= 2
        flaky.does({"method": "GET", "delay": 0.3})
        assert storage.get("k") == data

    def test_limits_for_uploads(self) -> None:
        patience = Patience()
        assert patience.for_upload(25_000_000, 0) == 60 + 128
        assert patience.for_upload(25_000_000, 1) == 60 + 256
        assert patience.for_upload(50_000_000, 0) == 60 + 256

    @pytest.mark.parametrize("fault", LOUD + SILENT)
    def test_create_only_puts(self, flaky: Flaky, fault: str) -> None:
        """Whether the lost try arrived or not: our object is there once, and no other object is overwritten."""
        storage = Storage(f"{flaky.uri}/create-{fault}")
        flaky.does({"fault": fault, "method": "PUT", "times": 1})
        assert storage.put_new("k", b"first")
        assert flaky.faults() == [fault]
        flaky.does({"fault": fault, "method": "PUT", "times": 1})
        assert not storage.put_new("k", b"second")
        assert storage.get("k") == b"first"

    def test_thousands_are_deleted_in_few_requests(self, flaky: Flaky) -> None:
        storage = Storage(f"{flaky.uri}/many")
        for i in range(5):
            storage.put(f"{i}", b"x")
        flaky.does({"fault": "reset-after", "method": "POST", "times": 1})
        storage.delete([*map(str, range(5)), *(f"nothing-{i}" for i in range(1500))])
        if flaky.server.scheme == "s3":
            assert len(flaky.saw()) == 4  # the first, again the first, 1,000 and the rest
        assert not storage.objects()


# --- manifests and audio there --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings in two folders, cut from the speech that ships, and files that must not count as recordings."""
    folder = tmp_path_factory.mktemp("corpus")
    source = demo_folder() / "audio" / "prompts-en.flac"
    for place, name in enumerate(("b/2.flac", "b/10.wav", "a.flac", "b/c/1.flac", "z.ogg", "b/c/0.flac")):
        rate = soundfile.info(source).samplerate
        samples, _ = soundfile.read(source, start=place * 3 * rate, frames=rate + 1000 * place)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, samples, rate)
    (folder / ".hidden").mkdir()
    shutil.copy(folder / "a.flac", folder / ".hidden" / "a.flac")
    (folder / "notes.txt").write_text("no sound")
    (folder / "table.csv").write_text("id,path,speaker\none,a.flac,7\ntwo,b/2.flac,8\n")
    return folder


@pytest.fixture(scope="module")
def corpus_uri(server: Flaky, corpus: Path) -> str:
    fill(f"{server.uri}/corpus", corpus)
    return f"{server.uri}/corpus"


class TestManifests:
    def test_from_a_folder(
        self, flaky: Flaky, gdist: Gdist, corpus: Path, corpus_uri: str, tiny_teacher: Path, tmp_path: Path
    ) -> None:
        """Built, checked and extracted there and here: the same table, and the same cache."""
        flaky.does()
        result = gdist("manifest", "build", corpus_uri, "--out", f"{corpus_uri}/m.parquet", "--json")
        assert result.exit_code == 0 and json.loads(result.stdout)["utterances"] == 6
        seen = flaky.saw()
        assert len(seen) <= 6 + 2 + 3  # headers (two ranges more of the Ogg file), listing and look-up, the manifest
        local = Path(shutil.copytree(corpus, tmp_path / "here"))
        here = build(local, local / "m.parquet")
        there = Manifest.read(f"{corpus_uri}/m.parquet")
        assert there.table.to_pylist() == here.table.to_pylist() and there.root == corpus_uri
        assert there.table["path"].to_pylist()[:2] == ["a.flac", "z.ogg"]
        assert gdist("manifest", "check", f"{corpus_uri}/m.parquet", "--audio").exit_code == 0
        uri = f"{flaky.uri}/from-a-bucket"
        assert gdist(*extract(tiny_teacher, f"{corpus_uri}/m.parquet", uri)).exit_code == 0
        assert gdist(*extract(tiny_teacher, local / "m.parquet", tmp_path / "cache")).exit_code == 0
        assert stored(uri) == contents(tmp_path / "cache")

    def test_from_a_csv(self, flaky: Flaky, gdist: Gdist, corpus_uri: str, tmp_path: Path) -> None:
        """The paths start from the table's folder; a manifest elsewhere names the bucket."""
        result = gdist("manifest", "build", f"{corpus_uri}/table.csv", "--out", tmp_path / "m.parquet")
        assert result.exit_code == 0, result.output
        utterances = Manifest.read(tmp_path / "m.parquet").utterances()
        assert [u.path for u in utterances] == [f"{corpus_uri}/a.flac", f"{corpus_uri}/b/2.flac"]
        assert [u.labels["speaker"] for u in utterances] == [7, 8] and all(u.num_samples for u in utterances)
        Manifest.read(tmp_path / "m.parquet").write(f"{flaky.uri}/elsewhere/m.parquet")
        moved = Manifest.read(f"{flaky.uri}/elsewhere/m.parquet")
        assert [u.path for u in moved.utterances()] == [u.path for u in utterances]

    def test_from_librispeech(self, flaky: Flaky, corpus: Path) -> None:
        storage = Storage(f"{flaky.uri}/LibriSpeech")
        storage.put("dev-clean/84/121/84-121.trans.txt", b"84-121-0 GO ON\n84-121-1 STOP\n")
        for name in ("84-121-0", "84-121-1"):
            storage.put(f"dev-clean/84/121/{name}.flac", (corpus / "a.flac").read_bytes())
        table = build(storage.uri, f"{storage.uri}/m.parquet").table
        assert table["path"].to_pylist() == ["dev-clean/84/121/84-121-0.flac", "dev-clean/84/121/84-121-1.flac"]
        assert table["text"].to_pylist() == ["GO ON", "STOP"] and table["split"].to_pylist() == ["dev-clean"] * 2

    def test_from_lhotse(self, flaky: Flaky, corpus_uri: str) -> None:
        source = {"type": "file", "channels": [0], "source": "b/2.flac"}
        recording = {"id": "r", "sources": [source], "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0}
        Storage(corpus_uri).put("recordings.jsonl", json.dumps(recording).encode())
        (utterance,) = build(f"{corpus_uri}/recordings.jsonl", f"{corpus_uri}/lhotse.parquet").utterances()
        assert utterance.path == f"{corpus_uri}/b/2.flac"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["build", "nothing", "--out", "m.parquet"], "no such file or folder"),
            (["check", "nothing.parquet"], "no manifest at {uri}"),
            (["check", "corpus/table.csv"], "as a Parquet manifest"),
        ],
    )
    def test_what_does_not_exist(
        self, flaky: Flaky, gdist: Gdist, corpus_uri: str, arguments: list[str], words: str
    ) -> None:
        command, below, *more = arguments
        result = gdist("manifest", command, f"{flaky.uri}/{below}", *more)
        assert result.exit_code == 2 and words.format(uri=flaky.uri) in result.stderr


class TestAudio:
    @pytest.mark.parametrize(
        ("name", "subtype", "most"),
        [("WAV", None, 1), ("FLAC", None, 1), ("AIFF", None, 1), ("OGG", "VORBIS", 3), ("MP3", None, 3)],
    )  # fmt: skip
    def test_a_header_is_a_range(
        self, flaky: Flaky, tmp_path: Path, name: str, subtype: str | None, most: int
    ) -> None:
        """That many requests of 64 KiB each, for two minutes of audio."""
        path, uri = tmp_path / f"long.{name}", f"{flaky.uri}/headers/{name}-{subtype}"
        noise = np.random.default_rng(0).standard_normal(120 * 16_000) / 8
        soundfile.write(path, noise, 16_000, format=name, subtype=subtype)
        storage = Storage(f"{flaky.uri}/headers")
        storage.put(f"{name}-{subtype}", path.read_bytes())
        flaky.does()
        assert read_header(Segment(uri)) == read_header(Segment(str(path))) == Header(len(noise), 16_000, 1)
        assert len(flaky.saw()) <= most and all(0 < record["down"] <= 1 << 16 for record in flaky.saw())
        if name == "FLAC":
            segment = (32_000, 16_000, 16_000)
            assert np.array_equal(
                load_utterance(Segment(uri, *segment)), load_utterance(Segment(str(path), *segment))
            )

    def test_what_is_not_audio(self, flaky: Flaky, corpus_uri: str) -> None:
        Storage(corpus_uri).put("empty.flac", b"")
        for name, words in (
            ("gone.flac", "file not found"),
            ("empty.flac", "empty file"),
            ("notes.txt", "not audio soundfile can decode"),
        ):
            with pytest.raises(AudioError, match=words):
                read_header(Segment(f"{corpus_uri}/{name}"))

    def test_an_outage_is_not_bad_audio(self, flaky: Flaky, tmp_path: Path) -> None:
        """Halfway through a header too, where libsndfile reads and cannot be given the reason for a failure."""
        soundfile.write(tmp_path / "a.ogg", np.random.default_rng(0).standard_normal(1_000_000) / 8, 16_000)
        Storage(f"{flaky.uri}/outage").put("a.ogg", (tmp_path / "a.ogg").read_bytes())
        flaky.does({"times": 1}, {"fault": "status"})
        with pytest.raises(CacheError, match="503 Service Unavailable"):
            read_header(Segment(f"{flaky.uri}/outage/a.ogg"))


# --- the commands ---------------------------------------------------------------------------------------------------


class TestCommands:
    def test_train_and_eval(
        self, flaky: Flaky, gdist: Gdist, cache_uri: str, tiny_cache: Path, tmp_path: Path
    ) -> None:
        """From the bucket over a bad connection, with the same results as from the folder."""
        settings = SHORT | {"train.steps": 2}
        options = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
        found = []
        for where, out in ((cache_uri, tmp_path / "there"), (tiny_cache, tmp_path / "here")):
            flaky.does({"fault": "status", "rate": 0.1, "seed": 3})
            assert gdist("train", "--cache", where, "--out", out, *options).exit_code == 0
            evaluated = gdist("eval", out, "--probes", "none", "--json")
            assert evaluated.exit_code == 0, evaluated.output
            found.append(json.loads(evaluated.stdout)["layers"])
        assert found[0] == found[1]
        assert contents(tmp_path / "there" / "student") == contents(tmp_path / "here" / "student")

    @pytest.mark.thorough
    def test_two_trainings_at_once_while_packs_are_added(
        self, flaky: Flaky, gdist: Gdist, tiny_teacher: Path, speech: Path, tmp_path: Path
    ) -> None:
        """Both end with the students that an unchanged cache gives: each reads what was there when it began."""
        manifest = Manifest.read(speech)
        half = tmp_path / "half.parquet"
        Manifest(manifest.table.take(list(range(0, 30, 2))), manifest.root).write(half)
        uri, alone = f"{flaky.uri}/grows", tmp_path / "alone"
        for cache in (uri, alone):
            assert gdist(*extract(tiny_teacher, half, cache)).exit_code == 0
        before = Cache.open(uri).gdist["checksum"]

        settings = SHORT | {"train.steps": 12, "train.log_every": 1}
        options = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
        students = ("gendistiller", "distilhubert")
        trainings = {
            student: subprocess.Popen(
                [*COMMAND, "train", "--cache", uri, "--out", str(tmp_path / student), "--student", student, *options],
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            for student in students
        }
        for student, process in trainings.items():
            wait_for_step(tmp_path / student, 3, process)
            process.send_signal(signal.SIGSTOP)  # so that the cache grows before they end, however slow extraction is
        extraction = gdist(*extract(tiny_teacher, speech, uri))
        ended = [student for student, process in trainings.items() if process.poll() is not None]
        for process in trainings.values():
            process.send_signal(signal.SIGCONT)
        assert extraction.exit_code == 0 and not ended, "they were to be alive until here"
        grown = Cache.open(uri)
        assert len(grown.entries) == 30 and grown.gdist["checksum"] != before
        for student, process in trainings.items():
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
            run = Run(tmp_path / student)
            assert run.provenance()["cache_checksum"] == before
            quiet = Run(tmp_path / f"{student}-alone")
            command = ["train", "--cache", alone, "--out", quiet.folder, "--student", student, *options]
            assert gdist(*command).exit_code == 0
            assert contents(run.student) == contents(quiet.student)

    def test_inspect_and_verify(self, flaky: Flaky, gdist: Gdist, cache_uri: str, tiny_cache: Path) -> None:
        there, here = (json.loads(gdist("inspect", uri, "--json").stdout) for uri in (cache_uri, tiny_cache))
        assert there | {"uri": ""} == here | {"uri": ""}
        assert json.loads(gdist("verify", cache_uri, "--json").stdout)["ok"]

    @pytest.mark.parametrize(
        "command",
        [
            ["train", "--cache", "c", "--out", "s3://runs/first"],
            ["eval", "s3://runs/first"],
            ["report", "s3://runs/first"],
            ["report", ".", "--out", "s3://runs/report.html"],
            ["demo", "--out", "s3://runs/demo"],
        ],
    )
    def test_runs_are_local_folders(
        self, gdist: Gdist, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = gdist(*command)
        assert result.exit_code == 2 and "runs and reports are local folders" in result.stderr
        assert not list(tmp_path.iterdir())
