"""The Python examples in the documentation are run as they are written, along with the rest of that interface."""

import doctest
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from torch.utils.data import DataLoader

from gdist.pipeline.cache import Cache
from gdist.pipeline.errors import CacheError, RunError, UsageError
from gdist.pipeline.loading import Batches, DataConfig
from gdist.stages.students import load_student

DOCS = Path(__file__).parent.parent / "docs"
RECIPE = "train.steps=2 train.warmup_steps=0 train.batch_seconds=8 train.device=cpu train.validate_every=2"


@pytest.fixture(scope="module")
def place(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ``cache`` and a run, ``runs/first``."""
    from gdist.stages.train.config import load_config
    from gdist.stages.train.train import train

    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(tiny_cache, folder / "cache")
    config = load_config(None, None, tuple(RECIPE.split()))
    train(str(folder / "cache"), folder / "runs" / "first", config, show_progress=False)
    return folder


# The first page and the tutorial have folders of their own: test_tutorial.py.
PAGES = sorted({path.name for path in DOCS.glob("*.md")} - {"start.md", "tutorial.md"})


@pytest.mark.parametrize("page", PAGES)
def test_examples(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ">>> " not in (DOCS / page).read_text(encoding="utf-8"):
        pytest.skip("no Python session on this page")
    monkeypatch.chdir(place)
    result = doctest.testfile(str(DOCS / page), module_relative=False, encoding="utf-8")
    assert result.attempted > 10 and not result.failed


def test_the_readmes_example(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block under "In Python", run on this cache and this run."""
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    here = {r'"s3://[^"]*"': '"cache"', "runs/gendistiller": "runs/first", '"84-121123-0000"': "name", r"\b9\b": "3"}
    for theirs, ours in here.items():
        block, replaced = re.subn(theirs, ours, block)
        assert replaced
    monkeypatch.chdir(place)
    shown: dict[str, object] = {"name": next(iter(Cache.open("cache").utterances))}
    exec(block, shown)
    assert isinstance(shown["hidden_TD"], torch.Tensor) and shown["hidden_TD"].shape[1] == 32


class TestCache:
    def test_an_utterance_by_its_name_is_its_span(self, tiny_cache: Path) -> None:
        cache = Cache.open(str(tiny_cache))
        assert [entry.id for entry in cache.entries] == list(cache.utterances)
        for name, entry in list(cache.utterances.items())[::7]:
            span = (entry, 0, entry.num_frames)
            for layer in cache.layers:
                assert cache.layer(name, layer).equal(cache.hidden(layer, [span])[0])
            samples_S = cache.audio(name)
            assert samples_S.dtype == np.int16 and len(samples_S) == entry.num_samples
            assert np.array_equal(samples_S, cache.waveform([span])[0])

    def test_what_it_does_not_hold(self, tiny_cache: Path) -> None:
        cache = Cache.open(str(tiny_cache))
        name = next(iter(cache.utterances))
        with pytest.raises(CacheError, match="does not contain layer 9"):
            cache.layer(name, 9)
        for ask in (lambda: cache.layer("nobody", 1), lambda: cache.audio("nobody")):
            with pytest.raises(CacheError, match="contains no utterance 'nobody'"):
                ask()

    def test_what_could_not_be_used_says_why(self, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cache = Cache.open(str(own_cache))
        first, second, *_ = cache.utterances
        unusable = replace(cache.utterances[first], problem="too short: 300 samples")
        monkeypatch.setattr(Cache, "utterances", {**cache.utterances, first: unusable})
        monkeypatch.setattr(Cache, "quarantine", lambda self, pack=None: {second: "empty file"})
        for name, reason in ((first, "too short"), (second, "empty file")):
            with pytest.raises(CacheError, match=f"utterance {name} of .* could not be used: {reason}"):
                cache.audio(name)


class TestBatches:
    def test_each_pass_is_an_epoch_and_an_epoch_is_everything_once(self, tiny_cache: Path) -> None:
        batches = Batches(str(tiny_cache), [0, 2], batch_seconds=8.0)
        passes = [[name for batch in batches for name in batch.ids] for _ in range(3)]
        assert len({tuple(names) for names in passes}) == 3 and len({tuple(sorted(names)) for names in passes}) == 1
        assert len(passes[0]) == len(set(passes[0])) == 14
        batches.epoch = 1
        loader: DataLoader[object] = DataLoader(batches, batch_size=None, num_workers=0)
        assert [name for batch in loader for name in batch.ids] == passes[1]

    def test_it_reads_what_was_asked_for(self, tiny_cache: Path) -> None:
        cache = Cache.open(str(tiny_cache))
        for batch in Batches(cache, [3], "test", waveforms=False, data=DataConfig(crop_seconds=0.0)):
            assert batch.waveform_BS is None and batch.hidden_BLTD.shape[1] == 1
            for row, name in enumerate(batch.ids):
                alone_TD = cache.layer(name, 3)
                assert batch.hidden(3)[row, : len(alone_TD)].equal(alone_TD)
                assert not batch.hidden(3)[row, len(alone_TD) :].any()
        with pytest.raises(UsageError, match=r"the batch does not contain layer 1, only \[3\]"):
            next(iter(Batches(cache, [3]))).hidden(1)
        ids = {name for batch in Batches(cache, [0], None) for name in batch.ids}
        assert ids == cache.utterances.keys()

    def test_a_pass_left_early_leaves_nothing_behind(self, tiny_cache: Path) -> None:
        batches = Batches(str(tiny_cache), [0], batch_seconds=4.0)
        next(iter(batches))
        assert sum(len(batch.ids) for batch in batches) == 14

    @pytest.mark.parametrize("how", ["fork", "spawn"])
    def test_workers_are_refused(self, tiny_cache: Path, how: str) -> None:
        batches = Batches(str(tiny_cache), [0])
        with pytest.raises(UsageError, match="cannot be read in worker processes"):
            list(DataLoader(batches, batch_size=None, num_workers=1, timeout=60, multiprocessing_context=how))

    def test_what_cannot_be_read(self, tiny_cache: Path) -> None:
        with pytest.raises(CacheError, match=r"does not contain layers \[7\]; it contains \[0, 1, 2, 3\]"):
            Batches(str(tiny_cache), [0, 7])
        with pytest.raises(CacheError, match=r"no utterance .* in the split test"):
            Batches(str(tiny_cache), [0], "test", data=DataConfig(test_split="nowhere"))


class TestLoadStudent:
    def test_from_a_run_and_from_what_it_was_exported_to(
        self, place: Path, tmp_path: Path, gdist: Callable[..., Result]
    ) -> None:
        run = place / "runs" / "first"
        waveform_1S = torch.linspace(-1, 1, 4000)[None]
        with torch.no_grad():
            wanted = load_student(str(run)).eval()(waveform_1S).last_hidden_state
            for form in ("hf", "s3prl"):
                assert gdist("export", run, "--format", form, "--out", tmp_path / form).exit_code == 0
                student = load_student(tmp_path / form).eval()
                assert type(student).__module__.startswith("gdist.stages.students.")
                assert student(waveform_1S).last_hidden_state.equal(wanted)
            assert load_student(run / "student").eval()(waveform_1S).last_hidden_state.equal(wanted)

    def test_where_there_is_none(self, place: Path, tiny_teacher: Path, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="neither a run nor an exported student"):
            load_student(tmp_path)
        with pytest.raises(RunError, match="does not contain a student of gdist: its model_type is wavlm"):
            load_student(tiny_teacher)
        run = Path(shutil.copytree(place / "runs" / "first", tmp_path / "run"))
        (run / "student" / "model.safetensors").unlink()
        with pytest.raises(RunError, match=r"model\.safetensors is missing"):
            load_student(run)
        shutil.rmtree(run / "student")
        with pytest.raises(RunError, match=r"has no finished student \(step 2 of 2\)"):
            load_student(run)
        (tmp_path / "config.json").write_text('{"model_type": "theirs", "auto_map": {"AutoConfig": "code.Config"}}')
        (tmp_path / "code.py").write_text("raise SystemExit('code of the folder was run')")
        with pytest.raises(RunError, match="cannot load the student"):
            load_student(tmp_path)
