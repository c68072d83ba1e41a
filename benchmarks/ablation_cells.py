"""What the ablation runs: the cells of the grid, and the references next to it."""

from dataclasses import dataclass
from itertools import product

from gdist.stages.train.config import TrainConfig

RECIPE = "ablation"
HISTORIES, SKIPS, OUTPUTS = ("student", "teacher", "mixed", "all"), ("true", "false"), ("linear", "none")
SAMPLED, FROZEN = "train.layers_per_step=4", "student.frontend=frozen"
COLUMNS = {"full": (), "a": (SAMPLED,), "b": (FROZEN,), "c": (SAMPLED, FROZEN)}
DEFAULT = "student-skip-linear"
FITHUBERT_WEIGHTS = f"loss.layer_weights=[{', '.join(['0.1'] * 11)}, 1.0]"
LAYERS = "student.initialize=layers"
NAME = "student.name={}".format


@dataclass(frozen=True)
class Cell:
    """What is run once per seed.

    Attributes:
        row, column: where its figure is in the table.
        group: grid, reference or equal.
        settings: what it changes in the recipe.
    """

    row: str
    column: str
    group: str
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.row}-{self.column}"


def grid() -> list[Cell]:
    cells = []
    for history, skip, output in product(HISTORIES, SKIPS, OUTPUTS):
        row = row_name(history, skip, output)
        settings = (f"student.history={history}", f"student.skip={skip}", f"student.output_layer={output}")
        cells += [Cell(row, column, "grid", (*settings, *spent)) for column, spent in COLUMNS.items()]
    return cells


def row_name(history: str, skip: str, output: str) -> str:
    return f"{history}-{'skip' if skip == 'true' else 'noskip'}-{output}"


def references(config: TrainConfig) -> list[Cell]:
    rows = {
        "distilhubert": (NAME("distilhubert"), LAYERS),
        "fithubert": (NAME("fithubert"), "loss.name=mse", FITHUBERT_WEIGHTS),
        "armhubert": (NAME("armhubert"),),
        "output_init": ("student.output_init=random",),
        "schedule": (f"train.forcing_steps={max(config.train.steps // 2, 1)}",),
        "rollout": ("student.rollout=4",),
        "adapters": ("student.adapter_rank=4",),
    }
    return [
        Cell(row, column, "reference", (*settings, *COLUMNS[column]))
        for row, settings in rows.items()
        for column in ("full", "b")
    ]


REFERENCE_NAMES = {
    "distilhubert": "DistilHuBERT's form: two layers, heads for 4, 8, 12",
    "fithubert": "FitHuBERT's form: as deep as the teacher, and thin; squared error",
    "armhubert": "ARMHuBERT's form: FitHuBERT's with shared attention maps; the same loss as the other students",
    "output_init": "GenDistiller in the paper's plain form: output layer begins at random",
    "schedule": "GenDistiller, from teacher forcing to self-feeding over the first half of the steps",
    "rollout": "GenDistiller, roll-outs of 4 layers from cached ones, all layers",
    "adapters": "GenDistiller with an adapter of rank 4 per layer",
}
