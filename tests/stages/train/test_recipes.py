"""Every recipe that ships can be trained from its kind of teacher, and is listed where people look."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from conftest import extracted, make_teacher

from gdist.pipeline.config import read_toml
from gdist.pipeline.errors import ConfigError
from gdist.pipeline.run import Run
from gdist.stages.sweep.points import Points
from gdist.stages.sweep.spec import read_spec
from gdist.stages.train.config import load_config
from gdist.stages.train.recipes import recipe_path, shipped, sweep_path
from gdist.stages.train.train import train

Gdist = Callable[..., Result]
Families = Callable[[str], Path]

DOCS = Path(__file__).parents[3] / "docs"
RECIPES = [one.name for one in shipped().values() if one.kind == "recipe"]
SWEEPS = [one.name for one in shipped().values() if one.kind == "sweep"]
# A few steps of what is at hand; everything else stays as the recipe has it.
BRIEF = (
    "train.steps=2", "train.warmup_steps=1", "train.batch_seconds=4", "train.validate_every=2",
    "train.validate_seconds=2", "data.train_split=train",
)  # fmt: skip
TEACHERS = ("wavlm", "hubert", "whisper")
PUBLISHED = [f"{student}-{teacher}" for student in ("gendistiller", "distilhubert") for teacher in TEACHERS]


def hubert(folder: Path) -> Path:
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = HubertConfig(
            hidden_size=32, num_hidden_layers=12, num_attention_heads=2, intermediate_size=64, conv_dim=[16] * 7,
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        )  # fmt: skip
        HubertModel(config).eval().save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder


def whisper(folder: Path) -> Path:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = WhisperConfig(
            d_model=32, encoder_layers=6, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1,
            decoder_attention_heads=2, decoder_ffn_dim=64, max_source_positions=400, vocab_size=20, pad_token_id=1,
            bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, num_mel_bins=80,
        )  # fmt: skip
        WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=8).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cache_of(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Families:
    """The cache of a random teacher with a family's shape and depth, but narrow."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            teachers: dict[str, Callable[[Path], Path]] = {
                "wavlm": lambda path: make_teacher(path, num_hidden_layers=12),
                "hubert": hubert,
                "whisper": whisper,
            }
            teacher = teachers[family](folder / "teacher")
            options: dict[str, Any] = {"window": "short"} if family == "whisper" else {}
            extracted(teacher, speech, folder / "cache", **options)
            made[family] = folder / "cache"
        return made[family]

    return make


def family_of(recipe: str) -> str:
    """The family of the teacher that a recipe is for: named, or the one that its page is about."""
    named = next((family for family in TEACHERS if f"-{family}-" in recipe), None)
    return named or ("whisper" if recipe.startswith("headline-") else "wavlm")


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_trains_a_student_of_its_kind_of_teacher(recipe: str, cache_of: Families, tmp_path: Path) -> None:
    config = load_config(recipe, None, BRIEF)
    result = train(str(cache_of(family_of(recipe))), tmp_path / "run", config, show_progress=False)
    assert result is not None and result["steps"] == 2 and result["loss"] > 0
    assert (Run(tmp_path / "run").student / "model.safetensors").exists()


@pytest.mark.parametrize("recipe", PUBLISHED)
@pytest.mark.parametrize("hours", ["960h", "100h"])
def test_the_published_schedule(recipe: str, hours: str) -> None:
    """DistilHuBERT's: 24 utterances a step, 2e-4 after 7 % of warm-up; of both corpora, but for its length."""
    name = f"{recipe}-{hours}"
    config = load_config(name, None, ())
    assert (config.train.lr, config.train.batch_seconds, config.train.schedule) == (2e-4, 300.0, "linear")
    assert config.train.steps == {"960h": 200_000, "100h": 100_000}[hours]
    assert config.train.warmup_steps == round(0.07 * config.train.steps)
    assert (config.loss.name, config.loss.cosine_weight) == ("l1_logcos", 1.0)
    assert len(config.data.train_split.split(",")) == {"960h": 3, "100h": 1}[hours]
    if recipe.startswith("distilhubert"):
        assert config.student["predict_layers"] == ([2, 4, 6] if "whisper" in recipe else [4, 8, 12])
    # Beside the corpus, and the length of the schedule, nothing differs.
    other = read_toml(recipe_path(f"{recipe}-{'100h' if hours == '960h' else '960h'}"))
    own = read_toml(recipe_path(name))
    different = {f"{table}.{key}" for table in own for key in own[table] if own[table][key] != other[table].get(key)}
    assert different == {"train.steps", "train.warmup_steps", "data.train_split"}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_point_of_a_sweep_is_possible(sweep: str, cache_of: Families) -> None:
    path = sweep_path(Path(sweep))
    spec = read_spec(path)
    found = Points(spec, {"": str(cache_of("wavlm"))}, path.parent)
    points = [point for combination in found.combinations() for point in found.of(*combination)]
    assert len(points) == spec.size > 10 and len({point.signature for point in points}) == spec.size


def test_a_sweep_by_its_name(cache_of: Families, tmp_path: Path, gdist: Gdist) -> None:
    words = ["sweep", "ablation-grid", "--cache", cache_of("wavlm"), "--out", tmp_path / "out", "--dry-run", "--json"]
    found = json.loads(gdist(*words).stdout)
    assert found["points"] == found["left"] == 210
    refused = gdist("sweep", "smoke", *words[2:])
    assert refused.exit_code == 2 and "gdist train --recipe smoke" in refused.stderr
    refused = gdist("sweep", "ablation-gird", *words[2:])
    assert refused.exit_code == 2 and "did you mean `ablation-grid`" in refused.stderr
    with pytest.raises(ConfigError, match="it is a sweep"):
        recipe_path("ablation-grid")


def test_they_are_listed_where_people_look(gdist: Gdist) -> None:
    rows = json.loads(gdist("recipes", "--json").stdout)
    listed = gdist("recipes").stdout
    page = re.sub(r"[`*]", "", (DOCS / "recipes.md").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == RECIPES + SWEEPS
    assert len({row["name"] for row in rows}) == len(rows), "a recipe and a sweep have the same name"
    for row in rows:
        assert re.fullmatch(r"[A-Z].{30,180}\.", row["about"]), f"{row['name']} begins with a comment: {row['about']}"
        assert re.search(rf"  {re.escape(row['name'])} +{re.escape(row['about'])}\n", listed)
        assert f"| {row['name']} | {row['about'].replace('`', '')} |" in page, f"docs/recipes.md lacks {row['name']}"


def test_one_of_them_can_be_copied(tmp_path: Path, gdist: Gdist) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(gdist("recipes", "gendistiller-wavlm-960h").stdout)
    assert load_config(str(mine), None, ()) == load_config("gendistiller-wavlm-960h", None, ())
    assert json.loads(gdist("recipes", "smoke", "--json").stdout)["text"] == recipe_path("smoke").read_text()
    refused = gdist("recipes", "smok")
    assert refused.exit_code == 2 and "smoke" in refused.stderr
