"""What int8 or float16 costs a student, on held-out utterances of its cache, or on the bundled sentences.

Axes: B batch, S samples, L teacher layers, T frames, D features.
"""

from typing import Any

import torch
from torch import Tensor

from gdist.data_manifests import demo_folder
from gdist.pipeline import audio, console, framing
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import GdistError
from gdist.pipeline.loading.splits import choose_splits, data_config, usable_entries
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.run import Run
from gdist.pipeline.storage.locations import require_no_server
from gdist.stages.evaluate.fidelity import Fidelity, mean_cosine
from gdist.stages.export.formats.base import Export
from gdist.stages.export.formats.onnx_graph import INPUTS
from gdist.stages.frontend.padding import normalize
from gdist.stages.students import Student

UTTERANCES = 16
MIN_SAMPLES, MAX_SAMPLES = framing.SAMPLE_RATE, 15 * framing.SAMPLE_RATE


def fidelity(session: Any, export: Export, form: str) -> dict[str, Any]:
    """Compare the student in a session, in ``form``, with itself in float32, on real speech, each utterance alone."""
    speech, source = speech_of(export.run)
    layers = list(range(1, export.student.config.num_teacher_layers + 1))
    sums, worst_L = Fidelity(layers), torch.ones(len(layers))
    for waveform_1S in speech:
        mask_1S = torch.ones(waveform_1S.shape, dtype=torch.int64)
        states = session.run(None, dict(zip(INPUTS, (waveform_1S.numpy(), mask_1S.numpy()), strict=True)))[:-1]
        own_BLTD = torch.stack(as_recorded(export.student, waveform_1S), dim=1)[:, 1:]
        form_BLTD = torch.stack([torch.from_numpy(state) for state in states], dim=1)[:, 1:]
        sums.add(form_BLTD, own_BLTD, torch.ones(own_BLTD.shape[0], own_BLTD.shape[2], dtype=torch.bool))
        cosine_LT = torch.nn.functional.cosine_similarity(form_BLTD, own_BLTD, dim=-1)[0]
        worst_L = torch.minimum(worst_L, cosine_LT.amin(1))
    rows = [
        {
            "layer": row["layer"],
            "cosine": row["cosine"],
            "lowest": float(worst),
            "relative_error": row["relative_error"],
        }
        for row, worst in zip(sums.rows(), worst_L, strict=True)
    ]
    mean = mean_cosine(rows)
    console.say(f"{form} compared with float32: mean cosine {mean:.4f} over {len(speech)} utterances of {source}:")
    for row in rows:
        console.say(f"  layer {row['layer']:2}: mean {row['cosine']:.4f}, lowest frame {row['lowest']:.4f}")
    return {"mean_cosine": mean, "utterances": len(speech), "speech": source, "layers": rows}


def speech_of(run: Run) -> tuple[list[Tensor], str]:
    """Return some utterances ``[1, S]`` as recorded, and where they come from."""
    try:
        uri = run.provenance()["cache"]
        require_no_server(uri, run.folder / "run.json")
        cache = Cache.open(uri)
        data = data_config(run.tables())
        splits = choose_splits(usable_entries(cache, True), data)
        entries = [entry for entry in splits["test"] or splits["valid"] if entry.num_samples >= MIN_SAMPLES]
        chosen = _spread(entries)
        if chosen:
            waveforms = cache.waveform([(entry, 0, entry.num_frames) for entry in chosen])
            speech = [audio.to_float(samples_S)[None, :MAX_SAMPLES] for samples_S in waveforms]
            return speech, f"the cache {cache.uri}"
    except (GdistError, OSError):
        pass  # the cache was moved, cannot be reached, or is in the web, and is not required
    return bundled(), "the bundled speech"


def bundled() -> list[Tensor]:
    """Return sentences that ship with gdist, ``[1, S]`` each."""
    usable = [u for u in Manifest.read(demo_folder() / "demo.parquet").utterances() if u.sample_rate == 16_000]
    long = [u for u in usable if (u.num_samples or 0) >= MIN_SAMPLES]
    waveforms = [audio.load_utterance(u.segment) for u in _spread(long)]
    return [audio.to_float(samples_S)[None, :MAX_SAMPLES] for samples_S in waveforms]


@torch.no_grad()
def as_recorded(student: Student, waveform_1S: Tensor) -> list[Tensor]:
    """Return the student's own hidden states of an utterance that is not yet normalized."""
    if student.config.do_normalize:
        waveform_1S = normalize(waveform_1S, torch.tensor([waveform_1S.shape[1]]))
    return list(student(waveform_1S, output_hidden_states=True).hidden_states)


def _spread[T](some: list[T]) -> list[T]:
    """Take items at regular intervals, so that all speakers of a sorted table occur."""
    return some[:: max(1, -(-len(some) // UTTERANCES))]
