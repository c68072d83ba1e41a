"""Real speech, a teacher whose forward pass takes milliseconds, and a cache of the one through the other."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import printed
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner, Result

from gdist.data_manifests import demo_folder
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.cli import main
from gdist.stages.extract.extract import extract
from gdist.stages.extract.plan import ExtractConfig

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
# The first lines of a process that stands for a machine without gdist and what only gdist needs.
WITHOUT_GDIST = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        absent = {"gdist", "gdist_lstm", "zarr", "dask", "distributed", "pyarrow", "click", "obstore"}
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
PACK_FRAMES = 512  # small packs, so that a minute of speech fills several
THOROUGH = "GDIST_THOROUGH" in os.environ  # set by `make thorough`
# Files that take longest, which come first: workers that take files in turn then end together.
LONG = (
    "test_real_demo.py", "test_tutorial.py", "test_places.py", "test_sweep.py", "test_export.py", "test_faulting.py",
    "test_own_files.py", "test_export_onnx.py", "test_cluster.py", "test_sweep_cluster.py", "test_buckets.py",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors: threads would only wait for each other. And the same sums in every process."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def listening() -> None:
    """What a shell starts in its background ignores Ctrl-C (`make test &`), and so would all that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def make_teacher(folder: Path, seed: int = 0, **fields: Any) -> Path:
    """A random WavLM in Base's layout, saved as a Hugging Face checkpoint."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    config = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "num_buckets": 32,
        "max_bucket_distance": 40,
        "initializer_range": 0.2,  # large enough that the layers differ from one another
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        WavLMModel(WavLMConfig(**(config | fields))).eval().save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint with 3 layers of 32 features."""
    return make_teacher(tmp_path_factory.mktemp("teacher") / "tiny-wavlm")


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 30 real utterances, digits at 8 kHz and prompts: 14 train, 8 valid, 8 test; 0.3 to 7 s each."""
    demo = Manifest.read(demo_folder() / "demo.parquet")
    rows = demo.table.to_pylist()
    chosen: list[dict[str, Any]] = []
    for split, digits, prompts in (("train", 8, 6), ("valid", 4, 4), ("test", 4, 4)):
        of_split = [row for row in rows if row["split"] == split]
        spoken = [row for row in of_split if row["digit"] is not None]
        read = [row for row in of_split if row["digit"] is None]
        # The tables are sorted by speaker and digit: the slant picks a different digit of each speaker.
        chosen += [spoken[i * (len(spoken) // digits + 1) % len(spoken)] for i in range(digits)]
        chosen += read[:: max(len(read) // prompts, 1)][:prompts]
    out = tmp_path_factory.mktemp("speech") / "speech.parquet"
    Manifest(pa.Table.from_pylist(chosen, schema=demo.table.schema), demo.root).write(out)
    return out


def extracted(teacher: Path, manifest: Path, cache: Path | str, **options: Any) -> dict[str, Any]:
    """What ``gdist extract`` does, in this process."""
    settings: dict[str, Any] = {"pack_frames": PACK_FRAMES, "device": "cpu"}
    config = ExtractConfig(str(teacher), str(manifest), str(cache), **(settings | options))
    return extract(config, show_progress=False)


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, speech: Path) -> Path:
    """The folder of a finished cache in fp16, for reading only: see ``own_cache``."""
    folder = tmp_path_factory.mktemp("cache") / "tiny"
    extracted(tiny_teacher, speech, folder)
    return folder


@pytest.fixture
def own_cache(tiny_cache: Path, tmp_path: Path) -> Path:
    """A copy of ``tiny_cache`` that the test may damage."""
    return Path(shutil.copytree(tiny_cache, tmp_path / "cache"))


@pytest.fixture(scope="session")
def gdist() -> Iterator[Callable[..., Result]]:
    """Run a command in this process: ``gdist("verify", cache, "--json")``."""
    runner = CliRunner()

    def run(*args: object) -> Result:
        result = runner.invoke(main, [str(arg) for arg in args])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception  # a bug: what users may see are GdistErrors, and those never get here
        if "--json" in args and result.stdout:
            printed.require([str(arg) for arg in args], result.stdout)
        return result

    yield run


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the longest tests to `make thorough`: each has a shorter relative in `make test`. A test that is named on
    the command line is run."""
    named = config.option.keyword or any("::" in argument for argument in config.args)
    if not THOROUGH and not named:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("thorough")])
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium. Without one these tests are skipped, except in CI, which must have it."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"none of {', '.join(CHROMIUMS)} is on the PATH")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def flaky(server: Any) -> Iterator[Any]:
    """A module's own ``server`` behind a proxy, which does what it is asked, before the test and after it."""
    server.does()
    yield server
    server.does()


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under ``folder``, temporary ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class mounted:  # noqa: N801 — reads as a statement
    """A tmpfs for the length of a ``with``; the test is skipped where none may be mounted."""

    def __init__(self, folder: Path, options: str) -> None:
        self.folder, self.options = folder, options

    def __enter__(self) -> Path:
        self.folder.mkdir()
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", self.folder], check=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no tmpfs can be mounted here")
        return self.folder

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.folder], check=True)
