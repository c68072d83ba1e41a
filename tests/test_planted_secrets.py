"""No command repeats a secret: not in what it says, not in what it writes, whatever becomes of it.

Secrets are planted in the environment, where keys belong, and in every option and argument that may be a location,
where they do not. What is searched is stdout, stderr, and every byte of every file.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from servers import reachable, running
from test_cli import COMMANDS
from test_cluster import start_dask

from gdist.stages.cli import main

SECRET = "PLANTED-5ecret"
ENVIRONMENT = {
    **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"), SECRET),
    **dict.fromkeys(("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET"), SECRET),
    **dict.fromkeys(("GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_API_KEY", "WANDB_API_KEY", "GDIST_PASSWORD"), SECRET),
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_REGION": "us-east-1",
    "HTTPS_PROXY": f"http://user:{SECRET}@127.0.0.1:1",
    "GDIST_STORE_TIMEOUT": "1",
    "AWS_MAX_ATTEMPTS": "1",
}
LOCATIONS = (
    f"s3://KEY:{SECRET}@bucket/x",
    f"s3://{SECRET}@bucket/x",
    f"https://user:{SECRET}@127.0.0.1:1/x",
    f"https://127.0.0.1:1/x?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}",
    f"gs://user:{SECRET}@bucket/x",
    f"hf://user:{SECRET}@datasets/a/b",
)
USUAL = {
    "teacher": "teacher", "cache": "cache", "uri": "cache", "caches": "cache", "source": "cache", "run": "run",
    "runs": "run", "folder": "run", "manifest": "speech.parquet", "path": "speech.parquet", "src": "speech.parquet",
    "out": "out", "target": "out", "file": "ablation", "to": "kaldi", "uris": "cache",
}  # fmt: skip


def places() -> Iterator[tuple[str, str]]:
    """Every command with each of its options and arguments that takes text."""
    for path, command in COMMANDS.items():
        for parameter in command.params:
            if isinstance(parameter.type, click.Choice) or getattr(parameter, "is_flag", False):
                continue
            yield " ".join(path), str(parameter.name)


@pytest.fixture
def here(tmp_path: Path, tiny_cache: Path, tiny_teacher: Path, speech: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which everything has its usual name, and an environment full of secrets."""
    for name, path in (("cache", tiny_cache), ("teacher", tiny_teacher), ("speech.parquet", speech)):
        (tmp_path / name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def hits(folder: Path) -> list[str]:
    """The files below a folder that contain the secret; tables are read, as their pages are compressed."""
    found = []
    for path in folder.rglob("*"):
        if SECRET in path.name or (path.is_file() and SECRET.encode() in path.read_bytes()):
            found.append(str(path))
        elif path.suffix == ".parquet" and path.is_file() and SECRET in str(pq.read_table(path).to_pylist()):
            found.append(f"{path}, inside")
    return found


def said(words: list[str]) -> tuple[int, str]:
    """What a command ends with, and says; a traceback too, as the program shows it."""
    result = CliRunner().invoke(main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout + result.stderr


def line_of(name: str, planted: str, value: str) -> list[str]:
    """A command line in which one parameter has a value, and those that must be given have their usual ones."""
    command, words, arguments = COMMANDS[tuple(name.split())], name.split(), []
    for parameter in command.params:
        if parameter.name != planted and not parameter.required:
            continue
        choices = getattr(parameter.type, "choices", None)
        usual = next(iter(choices)) if choices else USUAL.get(str(parameter.name), "none")
        given = value if parameter.name == planted else str(usual)
        if isinstance(parameter, click.Argument):
            arguments.append(given)
        else:
            words += [parameter.opts[-1], given]
    return [*words, *arguments]


@pytest.mark.parametrize(("name", "planted"), [*places()], ids=lambda each: each.replace(" ", "-"))
def test_a_secret_in_a_location_is_not_repeated(
    here: Path, capfd: pytest.CaptureFixture[str], name: str, planted: str
) -> None:
    """Where a command takes text, and whatever it makes of it."""
    places = LOCATIONS if planted in ("uri", "uris", "cache", "source") else LOCATIONS[:1] + LOCATIONS[3:4]
    for place in places:
        for before, after in (((), ()), (("--log-json",), ("--json",))):
            takes_json = any(each.name == "as_json" for each in COMMANDS[tuple(name.split())].params)
            words = [*before, *line_of(name, planted, place), *(after if takes_json else ())]
            _, text = said(words)
            assert SECRET not in text, words
    assert SECRET not in "".join(capfd.readouterr())
    assert not hits(here)


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "s3://bucket/x"),
        ("inspect", "gs://bucket/x"),
        ("inspect", "az://container/x"),
        ("inspect", "https://127.0.0.1:1/x"),
        ("inspect", "hf://datasets/a/b"),
        ("verify", "s3://bucket/x"),
        ("copy", "cache", "s3://bucket/x"),
        ("caches", "s3://bucket/x"),
        ("doctor", "s3://bucket/x", "gs://bucket/x", "az://container/x", "hf://datasets/a/b"),
        ("extract", "--teacher", "teacher", "--manifest", "speech.parquet", "--cache", "s3://bucket/x"),
        ("train", "--cache", "s3://bucket/x", "--out", "out"),
        ("manifest", "build", "s3://bucket/x", "--out", "m.parquet"),
    ],
    ids=" ".join,
)
def test_a_key_of_the_environment_is_not_repeated_where_a_store_fails(
    here: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    for before in ([], ["--log-json"]):
        code, text = said([*before, *words])
        assert code in (1, 2) and SECRET not in text
    assert SECRET not in "".join(capfd.readouterr())
    assert not hits(here)


def test_a_whole_study_writes_no_secret(here: Path, tiny_cache: Path, tiny_teacher: Path, speech: Path) -> None:
    """From extraction to a report, with keys in the environment of every step."""
    study = here / "study"
    study.mkdir()
    (study / "sweep.toml").write_text(
        '[set]\n"train.steps" = 2\n"train.warmup_steps" = 1\n[grid]\n"train.lr" = [0.001]\n'
    )
    steps: list[list[object]] = [
        ["plan", "--teacher", "teacher", "--manifest", "speech.parquet", "--json"],
        ["extract", "--teacher", "teacher", "--manifest", "speech.parquet", "--cache", study / "cache", "--json"],
        ["inspect", study / "cache", "--json"],
        ["verify", study / "cache"],
        ["copy", study / "cache", study / "copied"],
        ["train", "--cache", study / "cache", "--out", study / "run", *short_settings()],
        ["eval", study / "run", "--probes", "none", "--json"],
        ["report", study / "run", "--out", study / "report.html"],
        ["report", study / "run", "--out", study / "report.md", "--format", "md"],
        ["best", study / "run"],
        ["export", study / "run", "--format", "hf", "--out", study / "exported"],
        ["export-features", study / "cache", "--out", study / "features", "--to", "npy"],
        ["sweep", study / "sweep.toml", "--cache", study / "cache", "--out", study / "sweep"],
    ]
    for step in steps:
        for before in ([], ["--log-json"]) if step[0] in ("inspect", "best", "verify") else ([],):
            code, text = said([*before, *map(str, step)])
            assert code in (0, 1), (step, text)
            assert SECRET not in text
    written = [path for path in study.rglob("*") if path.is_file()]
    assert len(written) > 40 and not hits(study)


def test_a_study_in_a_bucket_writes_no_secret(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The keys open a real server of objects: they are used, and are nowhere afterwards, there either."""
    folder, study = tmp_path_factory.mktemp("moto"), here / "study"
    study.mkdir()
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), SECRET)
    with running("moto", folder) as server, reachable(server, server.port, **keys):
        server.create("planted")
        for step in (
            ["manifest", "build", "s3://planted/x", "--out", study / "none.parquet"],
            ["extract", "--teacher", "teacher", "--manifest", "speech.parquet", "--cache", "s3://planted/c"],
            ["inspect", "s3://planted/c", "--json"],
            ["verify", "s3://planted/c"],
            ["copy", "s3://planted/c", "s3://planted/copied"],
            ["train", "--cache", "s3://planted/c", "--out", study / "run", *short_settings()],
            ["eval", study / "run", "--probes", "none", "--json"],
            ["report", study / "run", "--out", study / "report.html"],
            ["export", study / "run", "--format", "hf", "--out", study / "exported"],
            ["export-features", "s3://planted/c", "--out", study / "features", "--to", "npy"],
        ):
            code, text = said([*map(str, step)])
            assert code == (2 if step[0] == "manifest" else 0), (step, text)  # there is nothing to list
            assert SECRET not in text
        for key in server.keys("planted", ""):
            path = here / "bucket" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(server.client.get_object(Bucket="planted", Key=key)["Body"].read())
    assert sum(path.is_file() for path in (here / "bucket").rglob("*")) > 40
    assert not hits(here / "bucket") and not hits(study)


LEAKING = """
from multiprocessing import parent_process
from gdist.pipeline.cache.encodings.floats import Float32
class Leaking(Float32):
    name = "leaking"
    def encode(self, hidden_BTD, num_frames_B, tables):
        if parent_process():  # in a worker
            raise KeyError("s3://KEY:{SECRET}@bucket/x")
        return super().encode(hidden_BTD, num_frames_B, tables)
"""


@pytest.mark.thorough  # a cluster of its own, for a worker's log
def test_a_bug_in_a_worker_of_a_cluster_repeats_none(here: Path) -> None:
    """What fails is somebody's own encoding. Its traceback goes over the network, and into the worker's own log."""
    (here / "leaking.py").write_text(LEAKING.replace("{SECRET}", SECRET))
    logs = here / "logs"
    logs.mkdir()
    dask = start_dask(logs)
    try:
        words = ["extract", "--teacher", "teacher", "--manifest", "speech.parquet", "--cache", "leaked"]
        words += ["--device", "cpu", "--encoding", f"{here}/leaking.py:Leaking", "--cluster", dask.address()]
        code = "from gdist.stages.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    finally:
        dask.end()
    log = (logs / "worker.log").read_text()
    assert done.returncode == 1 and "KeyError" in done.stderr, done.stderr
    assert "KeyError" in log, log
    assert SECRET not in done.stderr + done.stdout + log + (logs / "scheduler.log").read_text()


def short_settings() -> list[str]:
    return [word for each in ("steps=3", "warmup_steps=1", "batch_seconds=8") for word in ("--set", f"train.{each}")]


def test_audio_at_a_place_with_a_secret(here: Path, speech: Path) -> None:
    """Rows of a manifest may be anybody's. Their audio is quarantined, and the reason does not repeat the secret."""
    table = pq.read_table(speech)
    place = table.column_names.index("path")
    paths = [f"s3://KEY:{SECRET}@bucket/{row}.wav" for row in range(table.num_rows)]
    (here / "given").mkdir()
    pq.write_table(table.set_column(place, "path", pa.array(paths)), here / "given" / "theirs.parquet")
    (here / "given" / "theirs.csv").write_text("path\n" + "".join(f"{path}\n" for path in paths))
    (here / "made").mkdir()
    manifest = str(here / "given" / "theirs.parquet")
    for words in (
        ["manifest", "check", manifest, "--report", "made/report.csv"],
        ["manifest", "check", manifest, "--audio", "--report", "made/report.parquet"],
        ["manifest", "build", "given/theirs.csv", "--out", "made/built.parquet"],
        ["manifest", "check", manifest, "--json"],
        ["extract", "--teacher", "teacher", "--manifest", manifest, "--cache", "made/cache"],
        ["plan", "--teacher", "teacher", "--manifest", manifest],
        ["manifest", "export", manifest, "--to", "kaldi", "--out", "made/kaldi"],
    ):
        assert SECRET not in said(words)[1], words
    assert not hits(here / "made")


BUG = """
import logging, sys, threading
from gdist.stages import kept
from gdist.stages.cli import main
def bug(*_):
    logging.getLogger("distributed.worker").error("lost {place}")
    try:
        raise OSError("at {place}")
    except OSError:
        logging.getLogger("elsewhere").exception("caught")
    thread = threading.Thread(target=lambda: 1 / (0 * len("{place}")))
    thread.start(); thread.join()
    raise KeyError("{place}")
kept.local_command = bug
main()
"""


@pytest.mark.parametrize("before", [(), pytest.param(("--log-json",), marks=pytest.mark.thorough)])
def test_the_traceback_of_a_bug_has_none(before: tuple[str, ...]) -> None:
    """Nor has what a library logs, or another thread."""
    code = BUG.replace("{place}", f"s3://KEY:{SECRET}@bucket/x")
    done = subprocess.run([sys.executable, "-c", code, *before, "local"], capture_output=True, text=True)
    assert done.returncode == 1 and "KeyError" in done.stderr and "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr and "lost s3://…@bucket" in json_text(done.stderr)
    assert SECRET not in done.stderr + done.stdout


def json_text(text: str) -> str:
    return text.replace("\\u2026", "…")


@pytest.mark.parametrize("command", [("students", "--teacher", "org/model"), ("inspect", "hf://datasets/a/b")])
def test_an_address_of_the_hub_with_a_secret_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    address = f"https://user:{SECRET}@127.0.0.1:1"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setattr(constants, "ENDPOINT", address)  # which reads it once, at its import
    code, text = said([*command])
    assert code == 2 and "cannot use the endpoint of HF_ENDPOINT: it has credentials in it" in text
    assert SECRET not in text
