"""`gdist eval`: evaluates students on held-out speech and compares them with the teacher, log-mel and two references.

Students generate freely: each layer from the one they generated before, as in use. The teacher's hidden states come
from the cache, so it is not run here either.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from gdist.pipeline import console
from gdist.pipeline.errors import CacheError, RunError, UsageError
from gdist.pipeline.loading.batch import Batch
from gdist.pipeline.loading.joined import Joined
from gdist.pipeline.loading.splits import DataConfig, data_config
from gdist.pipeline.local.folder import LocalFolder
from gdist.pipeline.made_with import made_with
from gdist.pipeline.run import Run
from gdist.pipeline.run.evaluations import Evaluations, weights_in
from gdist.pipeline.run.snapshot import Snapshot, snapshots
from gdist.pipeline.storage.locations import in_shell, lasting
from gdist.stages.device import choose_device, enough_memory
from gdist.stages.evaluate.bench import Bench, absent_layers, judged_layers
from gdist.stages.evaluate.fidelity import Fidelity, mean_cosine
from gdist.stages.evaluate.probes import PROBES, probes_named
from gdist.stages.evaluate.tables import say_absent, say_kept, show
from gdist.stages.evaluate.upstreams import hidden_states, of_layers
from gdist.stages.students import Student, load_student, require_loadable
from gdist.stages.train.caches import newest, of_run

ROOM_FOR_RESULTS = 1 << 20  # bytes: more than any evaluation takes
OF_TRAINING = ("crop_seconds", "seed")  # fields of the data config that an evaluation does not read


def evaluate(at: Snapshot, bench: Bench, failed: list[RunError] | None = None) -> dict[str, Any]:
    """Evaluate one student of a run, and keep what is found next to its other evaluations.

    Args:
        failed: gets the error, where it cannot be kept; without a list, it is raised.

    Returns:
        what was found now, without what is kept of earlier evaluations.

    Raises:
        DeviceMemoryError: the device's memory does not suffice.
    """
    hint = "--device cpu, where there is more" if bench.device.type == "cuda" else "a machine with more memory"
    with enough_memory(f"evaluating {at.typed} on {bench.cache.uri}", bench.device, hint):
        result = _evaluate(at, bench)
    split = "valid" if bench.on_valid else "test"
    try:
        say_kept(at, split, result, Evaluations(at.run, at.evaluated_as).keep(split, result))
    except (OSError, RunError) as error:  # it took long: it is printed, and the command fails
        found = error if isinstance(error, RunError) else at.run.unwritable(error)
        if failed is None:
            raise found from error
        failed.append(found)
    return result


def _evaluate(at: Snapshot, bench: Bench) -> dict[str, Any]:
    run, student = at.run, load_student(at).to(bench.device).eval()
    fidelity, copies = Fidelity(bench.layers, bench.device), Fidelity(bench.layers, bench.device)
    collected = bench.collector()
    bench.notify(f"{at.name}: fidelity")
    for batch in bench.batches(bench.splits[bench.split]):
        states_BKTD = hidden_states(student, batch)
        target_BLTD, mask_BT = bench.targets(batch), batch.mask_BT
        fidelity.add(of_layers(states_BKTD, bench.layers), target_BLTD, mask_BT)
        copies.add(states_BKTD[:, :1], target_BLTD, mask_BT)
        collected.add(of_layers(states_BKTD, bench.probed), batch)

    def again(batch: Batch) -> Tensor:
        return of_layers(hidden_states(student, batch), bench.probed)

    rows, first = fidelity.rows(), bench.caches.teachers[0]
    return {
        "run": run.name,
        "student": run.tables()["student"]["name"],
        **at.progress,
        "weights": weights_in(at.weights_file),
        "params": student.num_parameters(),
        "params_with_heads": student.num_parameters_with_heads(),
        "predicted_layers": list(student.first_layers),
        "layer_0": "teacher" if bench.is_teachers(student.frontend) else "own",
        "cache": lasting(bench.cache.uri),
        "cache_checksum": bench.caches.checksum,
        "data": {key: value for key, value in asdict(bench.data).items() if key not in OF_TRAINING},
        "split": bench.split,
        "minutes": bench.minutes,
        "utterances": len(bench.splits[bench.split]),
        "also_trained_on": bench.also_trained_on,
        "frames": fidelity.frames,
        "mean_cosine": mean_cosine(rows),
        "layers": rows,
        "absent_layers": absent_layers(first),
        "probed_layers": bench.probed,
        **_of_each_teacher(run, student, bench, rows),
        "references": {"mean_frame": bench.mean_frame_rows, "copy_h0": copies.rows()},
        "probes": bench.probe_layers(run.name, again, states=collected),
        **bench.baselines,
        "extensions": {name: own.record for name in bench.tasks if (own := PROBES.extension(name))},
        "packages": {name: record for name in bench.tasks if (record := PROBES.package(name))},
        **made_with(str(bench.device)),
    }


def _of_each_teacher(run: Run, student: Student, bench: Bench, first: list[dict[str, float]]) -> dict[str, Any]:
    """Of a student of several teachers, its fidelity to each; ``first`` is that to the first one."""
    if len(student.teachers) == 1:
        return {}
    taught = bench.caches.teachers
    found: dict[str, dict[str, Any]] = {taught[0].name: {"mean_cosine": mean_cosine(first), "layers": first}}
    for other, own in zip(taught[1:], student.teachers[1:], strict=True):
        bench.notify(f"{run.name}: fidelity to {other.name}")
        fidelity = Fidelity(judged_layers(other), bench.device)
        for batch in bench.batches_of(other, bench.splits[bench.split]):
            states_BKTD = hidden_states(student, batch, own.name)
            fidelity.add(of_layers(states_BKTD, judged_layers(other)), batch.hidden_BLTD, batch.mask_BT)
        rows, mean_frame = fidelity.rows(), bench.mean_frame_rows_of(other)
        found[other.name] = {
            "mean_cosine": mean_cosine(rows),
            "predicted_layers": own.config.predict_layers,
            "layers": rows,
            "references": {"mean_frame": mean_frame},
        }
    for each in taught:
        found[each.name] |= {
            "name": each.cache.gdist["about"]["teacher"],
            "fingerprint": each.cache.identity["teacher"]["fingerprint"],
            "absent_layers": absent_layers(each),
        }
    of_all = sum(each["mean_cosine"] for each in found.values()) / len(found)
    return {"teachers": found, "mean_cosine_of_all": of_all}


def require_teachers(run: Run, caches: Joined) -> None:
    """Raise CacheError where the caches are not of the run's teachers, in their order: cosines would say nothing."""
    origin = run.provenance()
    own = list(origin["teachers"].values()) if "teachers" in origin else [origin["teacher"]]
    if len(own) != len(caches.teachers):
        raise CacheError(
            f"{run.folder} has {len(own)} teachers, and the caches given are of {len(caches.teachers)}",
            f"give a cache of each, in this order:{run.cache_options}",
        )
    for wanted, taught in zip(own, caches.teachers, strict=True):
        found = taught.cache.identity["teacher"]["fingerprint"]
        if found != wanted["fingerprint"]:
            raise CacheError(
                f"cannot evaluate {run.folder} on {taught.cache.uri}: it is a student of {wanted['name']} "
                f"({wanted['fingerprint'][:12]}), and the cache is of {taught.cache.gdist['about']['teacher']} "
                f"({found[:12]}), by their fingerprints",
                f"give a cache of its own teacher; it learned from{run.cache_options}",
            )


def eval_command(
    locations: list[Path],
    uri: str | Sequence[str] | None,
    probes: str,
    control: bool,
    as_json: bool,
    device: str = "auto",
    local: LocalFolder | None = None,
    split: Literal["test", "valid"] = "test",
    minutes: float = 0.0,
) -> int:
    """Evaluate runs one after another; what they share is computed once per cache. For ``minutes``, 0 is all.

    ``RUN@STEP`` is the student of a checkpoint, and so is a single unfinished run: that of its newest one. Of several
    runs, those that have no finished student are left out with a message.
    """
    if not (minutes == 0 or 0 < minutes < math.inf):
        raise UsageError(f"--minutes {minutes}: must be a number above 0, or left out for all speech")
    device, given = choose_device(device, "--device "), [uri] if isinstance(uri, str) else list(uri or ())
    chosen = None if probes == "all" else probes_named(probes)
    students = snapshots(locations)
    benches: dict[tuple[str, DataConfig], Bench] = {}
    results, failed = [], list[RunError]()
    with console.progress("eval", len(students), "runs", enabled=not as_json) as advance:
        for at in students:
            at.say_unfinished()
            require_loadable(at)  # before the cache is read
            run = at.run
            run.require_room(ROOM_FOR_RESULTS, "its evaluation")
            data = data_config(run.tables())
            caches = newest(given, local) if given else of_run(run, local)
            require_teachers(run, caches)
            key = caches.checksum, data
            if key not in benches:
                options = "".join(f" --cache {in_shell(each)}" for each in given) or run.cache_options
                say_absent(at, caches, options)
                benches[key] = Bench(
                    caches, data, chosen, control, lambda note: advance(0, note), device, split, minutes
                )
            results.append(evaluate(at, benches[key], failed))
            advance(1)
    if as_json:
        console.emit(results[0] if len(locations) == 1 else results)
    else:
        show(results)
    if failed:
        raise failed[0]
    return 0
