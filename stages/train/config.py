"""The config of a training run: [train], [student], [loss], [data] and [augment], from a recipe and ``--set``."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gdist.pipeline.config import TomlTables, build, merge, parse_set, read_toml, require
from gdist.pipeline.errors import ConfigError
from gdist.pipeline.loading.splits import DataConfig
from gdist.stages.students import STUDENTS, student_values
from gdist.stages.train.augment import AugmentConfig, refuse_misaligning
from gdist.stages.train.losses import LOSSES, LossConfig
from gdist.stages.train.recipes import recipe_path

MAX_TIMEOUT = 1e6  # twelve days


@dataclass(frozen=True)
class OptimConfig:
    """The [train] table. The defaults are DistilHuBERT's published schedule (arXiv 2110.01900 and its code).

    Attributes:
        steps: optimizer steps. With the schedule ``constant``, a run can go on to more.
        batch_seconds: audio per batch, over all ranks together and including padding; 24 LibriSpeech utterances are
            about 300 s.
        accumulate: the number of batches whose gradients are added up for one step.
        layers_per_step: how many of the student's layers a step reads and computes, drawn again for each batch; 0
            means all of them.
        forcing_steps: over this many first steps, the share of generated layers that start from the teacher's state
            falls from 1 to the share that the student's ``history`` implies.
        thaw_step: with a frozen front-end, the first step at which it reads audio and is trained too; 0 means never.
        lr: the largest learning rate, at the end of the warm-up.
        warmup_steps: steps over which the rate rises from zero.
        schedule: what follows the linear warm-up: linear decay to zero, or a constant rate.
        betas, eps, weight_decay: of AdamW; biases and norms are not decayed.
        clip_norm: longer gradients are shortened to this norm.
        precision: fp32, or bf16 by autocast.
        compile: torch.compile the student's Transformer layers; on a CPU, this needs a C++ compiler.
        seed: of the weights, dropout, augmentation and the layers of a step; and of the order of utterances, unless
            ``data.seed`` is set.
        device: where the student trains: auto, cpu, cuda or cuda:N. auto is a GPU where there is one.
        deterministic: on a GPU, use only kernels that give the same bits each time; see :mod:`.repeatable`.
        peer_timeout: how many seconds a rank waits for the others before it gives up.
        log_every, validate_every, checkpoint_every: in steps.
        ema_decay: validate and keep an exponential average of the weights, with this decay per step; 0 means the
            last weights themselves.
        validate_seconds: at most this much held-out audio is used in each validation.
        keep_checkpoints: how many of the newest checkpoints are kept.
        keep_every: checkpoints whose step is a multiple of this are also kept; 0 means none.
    """

    steps: int = 200_000
    batch_seconds: float = 300.0
    accumulate: int = 1
    layers_per_step: int = 0
    forcing_steps: int = 0
    thaw_step: int = 0
    lr: float = 2e-4
    warmup_steps: int = 14_000
    schedule: Literal["linear", "constant"] = "linear"
    betas: tuple[float, ...] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 1e-6
    clip_norm: float = 10.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    ema_decay: float = 0.0
    seed: int = 0
    device: str = "auto"
    deterministic: bool = False
    peer_timeout: float = 600.0
    log_every: int = 50
    validate_every: int = 1000
    validate_seconds: float = 600.0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    keep_every: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints"):
            require(getattr(self, name) >= 1, f"train.{name} = {getattr(self, name)}: must be 1 or more")
        for name in ("layers_per_step", "forcing_steps", "thaw_step", "keep_every"):
            require(getattr(self, name) >= 0, f"train.{name} = {getattr(self, name)}: must be 0 or more")
        require(0 <= self.ema_decay < 1, f"train.ema_decay = {self.ema_decay}: must be 0 or more, and below 1")
        for name in ("batch_seconds", "lr", "eps", "clip_norm", "validate_seconds", "peer_timeout"):
            require(getattr(self, name) > 0, f"train.{name} = {getattr(self, name)}: must be more than 0")
        require(
            0 <= self.warmup_steps <= self.steps,
            f"train.warmup_steps = {self.warmup_steps}: must be between 0 and train.steps",
        )
        moments = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(moments, f"train.betas = {list(self.betas)}: AdamW takes two numbers, at least 0 and below 1")
        require(self.weight_decay >= 0, f"train.weight_decay = {self.weight_decay}: must be 0 or more")
        require(
            self.peer_timeout <= MAX_TIMEOUT, f"train.peer_timeout = {self.peer_timeout}: at most {MAX_TIMEOUT:g} s"
        )
        require(0 <= self.seed < 2**31, f"train.seed = {self.seed}: must be between 0 and 2³¹−1")


@dataclass(frozen=True)
class TrainConfig:
    """The whole config of a run.

    Attributes:
        student: ``name``, ``frontend`` (trained | frozen), ``initialize`` (layers | frontend | none), and any field
            of that student's own config.
    """

    train: OptimConfig = field(default_factory=OptimConfig)
    student: dict[str, Any] = field(default_factory=dict)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def order_seed(self) -> int:
        """The seed of the order of utterances and of the crops; all else is drawn from ``train.seed``."""
        return self.train.seed if self.data.seed is None else self.data.seed

    @property
    def smaller(self) -> str:
        """What to type when the memory of the device is full: the fields that take less of it, for another run."""
        optim = self.train
        less = [f"train.batch_seconds={optim.batch_seconds / 2:g} --set train.accumulate={optim.accumulate * 2}"]
        if optim.precision == "fp32":
            less.append("train.precision=bf16")
        if not optim.layers_per_step:
            less.append("train.layers_per_step=4")
        if self.student["frontend"] == "trained":
            less.append("student.frontend=frozen")
        choices = ", or ".join(f"--set {setting}" for setting in less)
        return f"another --out with {choices}; the last checkpoint is kept"


STUDENT_DEFAULTS = {"name": "gendistiller", "frontend": "trained", "initialize": "frontend"}
CHOICES = {"frontend": ("trained", "frozen"), "initialize": ("layers", "frontend", "none")}


def load_config(recipe: str | None, student: str | None, settings: tuple[str, ...]) -> TrainConfig:
    """A recipe (a name or a TOML file), then ``--student``, then every ``--set``, over the defaults.

    A student or a loss may be an object in a file, ``FILE.py:NAME``. The file is then run, even where only a recipe
    names it; but not where the recipe is the config of a run, which may come from someone you do not trust.

    Raises:
        ConfigError: a field is unknown, has an invalid value or contradicts another; the message names it.
    """
    from_recipe = read_toml(recipe_path(recipe)) if recipe else {}
    named: TomlTables = {"student": {"name": student}} if student else {}
    assigned: list[TomlTables] = []
    for setting in settings:
        table, key, value = parse_set(setting)
        assigned.append({table: {key: value}})
    tables = merge({"student": STUDENT_DEFAULTS}, from_recipe, named, *assigned)
    of_a_run = recipe is not None and (recipe_path(recipe).parent / "run.json").exists()
    typed = merge(named, *assigned)
    for table, registry in (("student", STUDENTS), ("loss", LOSSES)):
        name, by_hand = tables.get(table, {}).get("name"), "name" in typed.get(table, {})
        # A recipe may name without folders what --use has named with them.
        if isinstance(name, str) and (by_hand or not (of_a_run or name in registry)):
            tables[table]["name"] = registry.use(name)
    for key, allowed in CHOICES.items():
        if tables["student"][key] not in allowed:
            raise ConfigError(f"student.{key} = {tables['student'][key]!r}: not one of {', '.join(allowed)}")
    own = {key: value for key, value in tables["student"].items() if key not in STUDENT_DEFAULTS}
    tables["student"] |= student_values(
        tables["student"]["name"], own
    )  # however the values are typed, it is the same run
    refuse_misaligning(tables.get("augment", {}))
    config = build(TrainConfig, tables)
    if config.data.seed == config.train.seed:  # the same run as without it
        config = replace(config, data=replace(config.data, seed=None))
    if config.student["frontend"] == "trained":
        require(not config.train.thaw_step, "train.thaw_step is for a frozen front-end", "student.frontend=frozen")
    else:
        require(
            config.student["initialize"] != "none",
            "a frozen front-end must be the teacher's, which student.initialize = none contradicts",
        )
        require(
            not config.augment.enabled or config.train.thaw_step > 0,
            "[augment] changes the student's input audio, but with a frozen front-end it starts from cached layer 0",
            "--set student.frontend=trained, or train.thaw_step=… to read audio from some step on",
        )
    return config
