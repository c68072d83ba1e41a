"""docs/examples/read_cache.py, the reader that only knows the format's description, reads what gdist reads."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import WITHOUT_GDIST, extracted
from read_cache import Reader

from gdist.pipeline.cache import Cache

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "read_cache.py"


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, speech: Path) -> Path:
    """A cache in fp32 whose layers came in two additions."""
    folder = tmp_path_factory.mktemp("grown") / "cache"
    extracted(tiny_teacher, speech, folder, layers="0,2", encoding="fp32")
    extracted(tiny_teacher, speech, folder, layers="0-3", encoding="fp32")
    return folder


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "bf16", "int8", "int4"])
def test_every_number_is_the_same(
    tmp_path: Path, tiny_cache: Path, grown: Path, encoding: str, gdist: Callable[..., Result]
) -> None:
    folder = {"fp32": grown, "fp16": tiny_cache}.get(encoding, tmp_path / "copy")
    if not folder.exists():
        assert gdist("copy", grown, folder, "--encoding", encoding).exit_code == 0
    cache, reader = Cache.open(str(folder)), Reader(str(folder))
    for name in cache.utterances:
        assert np.array_equal(reader.audio(name), cache.audio(name))
        for layer in cache.layers:
            assert np.array_equal(reader.layer(name, layer), cache.layer(name, layer).numpy())


def test_what_is_not_there(own_cache: Path) -> None:
    name = next(iter(Cache.open(str(own_cache)).utterances))
    reader = Reader(str(own_cache))
    with pytest.raises(KeyError, match="the index does not have it"):
        reader.layer("nobody", 1)
    with pytest.raises(KeyError, match="layer 9 is not in this cache"):
        reader.layer(name, 9)
    (own_cache / "receipts" / f"{reader.entry(name)['pack']:05}.json").unlink()
    with pytest.raises(FileNotFoundError):
        reader.layer(name, 1)
    with pytest.raises(FileNotFoundError):
        reader.audio(name)


def test_where_gdist_is_not_installed(tiny_cache: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    name = next(iter(Cache.open(str(tiny_cache)).utterances))
    without = WITHOUT_GDIST.replace('"zarr", ', "").replace('"pyarrow", ', "")
    program = f"{without}\nimport runpy\nrunpy.run_path('read_cache.py', run_name='__main__')"
    command = [sys.executable, "-c", program, str(tiny_cache), name, "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    frames = Cache.open(str(tiny_cache)).utterances[name].num_frames
    assert done.stdout.startswith(f"{frames} frames of 32 features")
