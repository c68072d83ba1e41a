"""What a training run is: the tables [train], [student], [loss] and [data], from a recipe and ``--set``."""

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from gdist.pipeline.config import Tables, build, did_you_mean, merge, parse_set, read_toml, require
from gdist.pipeline.errors import ConfigError
from gdist.pipeline.loader import DataConfig
from gdist.stages.losses import LossConfig


@dataclass(frozen=True)
class OptimConfig:
    """The [train] table. The defaults are DistilHuBERT's published schedule (arXiv 2110.01900 and its code).

    Attributes:
        batch_seconds: audio a batch, padding included; 24 LibriSpeech utterances are about 300 s.
        accumulate: batches whose gradients are added up for one step.
        schedule: what follows the linear warm-up: linear decay to zero, or a constant rate.
        precision: fp32, or bf16 autocast.
        validate_seconds: at most so much held-out audio is used at each validation.
    """

    steps: int = 200_000
    batch_seconds: float = 300.0
    accumulate: int = 1
    lr: float = 2e-4
    warmup_steps: int = 14_000
    schedule: Literal["linear", "constant"] = "linear"
    betas: tuple[float, ...] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 1e-6
    clip_norm: float = 10.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    device: str = "auto"
    log_every: int = 50
    validate_every: int = 1000
    validate_seconds: float = 600.0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints"):
            require(getattr(self, name) >= 1, f"train.{name} = {getattr(self, name)}: must be 1 or more")
        for name in ("batch_seconds", "lr", "eps", "clip_norm", "validate_seconds"):
            require(getattr(self, name) > 0, f"train.{name} = {getattr(self, name)}: must be more than 0")
        require(
            0 <= self.warmup_steps <= self.steps, f"train.warmup_steps = {self.warmup_steps}: must lie in 0…steps"
        )
        require(len(self.betas) == 2, f"train.betas = {list(self.betas)}: AdamW takes two")
        require(self.weight_decay >= 0, f"train.weight_decay = {self.weight_decay}: must be 0 or more")
        require(0 <= self.seed < 2**31, f"train.seed = {self.seed}: must lie in 0…2³¹−1")


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    Attributes:
        student: ``name``, ``frontend`` (trained | frozen), ``initialize`` (layers | frontend | none), and any field
            of that student's own config.
    """

    train: OptimConfig = field(default_factory=OptimConfig)
    student: dict[str, Any] = field(default_factory=dict)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)


STUDENT_DEFAULTS = {"name": "gendistiller", "frontend": "trained", "initialize": "frontend"}
CHOICES = {"frontend": ("trained", "frozen"), "initialize": ("layers", "frontend", "none")}


def load_config(recipe: str | None, student: str | None, settings: tuple[str, ...]) -> TrainConfig:
    """A recipe (a name or a TOML file), then ``--student``, then every ``--set``, over the defaults."""
    from_recipe = read_toml(recipe_path(recipe)) if recipe else {}
    named: Tables = {"student": {"name": student}} if student else {}
    assigned: list[Tables] = []
    for setting in settings:
        table, key, value = parse_set(setting)
        assigned.append({table: {key: value}})
    tables = merge({"student": STUDENT_DEFAULTS}, from_recipe, named, *assigned)
    for key, allowed in CHOICES.items():
        if tables["student"][key] not in allowed:
            raise ConfigError(f"student.{key} = {tables['student'][key]!r}: not one of {', '.join(allowed)}")
    if tables["student"]["frontend"] == "frozen" and tables["student"]["initialize"] == "none":
        raise ConfigError("a frozen front-end must be the teacher's: student.initialize = none contradicts it")
    return build(TrainConfig, tables)


def recipe_path(name: str) -> Path:
    """A shipped recipe by name, or a TOML file by path."""
    if name.endswith(".toml") or "/" in name:
        return Path(name)
    shipped = {path.name.removesuffix(".toml"): path for path in _shipped()}
    if name not in shipped:
        raise ConfigError(f"no recipe {name!r}", did_you_mean(name, shipped))
    return shipped[name]


def _shipped() -> list[Path]:
    folder = Path(str(files("gdist.stages"))) / "recipes"
    return sorted(folder.glob("*.toml"))
