"""`gdist plan`: the size and cost of a cache in each encoding, and after how many student runs it has paid off.

Once:               teacher time for the corpus + storage for the months it is kept + requests
Per run, online:    teacher time for all the audio that the run reads
Per run, cached:    requests + egress

The cache has paid for itself after the first run n with  once + n · cached ≤ n · online  (see :func:`break_even`).
The student's own time is the same either way, so it is left out.
"""

import dataclasses
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.cache import layout
from gdist.pipeline.cache.encode import compression
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.cache.schema import MAX_SECONDS
from gdist.pipeline.config import require
from gdist.pipeline.errors import EXIT_OK, UsageError
from gdist.pipeline.framing import Framing
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.estimate.footprint import Corpus, Size, extraction_requests, run_requests, size_of
from gdist.stages.estimate.prices import Prices, load_prices
from gdist.stages.estimate.speed import speed_of
from gdist.stages.extract.plan import ExtractConfig, parse_layers, published_name
from gdist.stages.frontend.kinds import frontend_of
from gdist.stages.teachers import read_teacher_config
from gdist.stages.train.config import TrainConfig

MOST_UTTERANCES = 50_000_000  # that are laid out, at a few dozen bytes each


@dataclass(frozen=True)
class EstimateConfig:
    """What to estimate. Fields that ExtractConfig also has mean the same.

    Attributes:
        hours: hours of audio, in utterances of ``utterance_seconds``, if there is no manifest yet.
        run_hours: hours of audio that one student run reads; None for the default schedule of ``gdist train``.
        speed: the teacher's speed, × real time, if it is not to be measured.
        measure: whether to time the teacher for some seconds; None does if there is a CUDA device and no ``speed``.
    """

    teacher: str
    manifest: str | None = None
    hours: float | None = None
    utterance_seconds: float = 12.0
    layers: str = "all"
    compress: str = ExtractConfig.compress
    precision: str = "fp32"
    device: str = "auto"
    window: str | None = None
    max_seconds: float = ExtractConfig.max_seconds
    pack_frames: int = layout.PACK_FRAMES
    run_hours: float | None = None
    speed: float | None = None
    measure: bool | None = None

    def __post_init__(self) -> None:
        compression(self.compress)
        if (self.manifest is None) == (self.hours is None):
            raise UsageError(
                "the amount of audio comes from either --manifest M.parquet or --hours H, but "
                f"{'neither was' if self.hours is None else 'both were'} given",
                f"gdist plan --teacher {in_shell(self.teacher)} --hours 960",
            )
        for name in ("hours", "utterance_seconds", "max_seconds", "run_hours", "speed"):
            value = getattr(self, name)
            possible = value is None or (value > 0 and math.isfinite(value))
            require(possible, f"--{name.replace('_', '-')} {value}: must be positive and finite")
        require(self.max_seconds <= MAX_SECONDS, f"--max-seconds {self.max_seconds}: must be at most {MAX_SECONDS:g}")
        many = f"--hours {self.hours}: that is more than {MOST_UTTERANCES:,} utterances of {self.utterance_seconds} s"
        few = self.hours is None or self.hours * 3600 / self.utterance_seconds <= MOST_UTTERANCES
        require(few, many, "plan a part of it, and multiply")
        require(
            self.pack_frames > 0 and self.pack_frames % layout.CHUNK_FRAMES == 0,
            f"--pack-frames {self.pack_frames}: must be a multiple of {layout.CHUNK_FRAMES}",
        )
        if self.speed is not None and self.measure:
            raise UsageError("--speed and --measure contradict each other", "leave one of them out")


def break_even(once: float, online: float, cached: float) -> int | None:
    """The number of student runs after which a cache has paid for itself.

    Worked by hand: 960 h at 1,000 × real time are 0.96 GPU-hours, which cost 2.40 at 2.50 per hour. Three months of
    storage cost 240.00 and the requests 5.00, so 247.40 once. A run reads 16,667 h. With the teacher online, that
    takes 16.67 GPU-hours, which cost 41.67; from the cache it costs 0.67. Each run saves 41.00, and 247.40 / 41.00 =
    6.03, so the cache has paid for itself after the 7th run.

    Returns:
        the number, or None if a run from the cache costs no less than one with the teacher online.
    """
    saved = online - cached
    return max(math.ceil(once / saved), 1) if saved > 0 else None


def estimate(config: EstimateConfig, prices: Prices) -> dict[str, Any]:
    """Estimate the fields of ``gdist plan --json`` (see docs/reference/json.md)."""
    teacher = read_teacher_config(config.teacher, config.window)
    layers = parse_layers(config.layers, teacher["num_hidden_layers"])
    corpus = corpus_of(config, frontend_of(teacher).framing)
    speed = speed_of(
        config.teacher,
        config.precision,
        config.device,
        config.speed,
        config.measure,
        corpus.sample,
        layers[-1],
        config.window,
    )
    gpu_hours = corpus.hours / speed["realtime_factor"]
    train = TrainConfig().train
    run_hours = config.run_hours or train.steps * train.accumulate * train.batch_seconds / 3600
    online_hours = run_hours / speed["realtime_factor"]
    extraction = {"gpu_hours": gpu_hours, "cost": gpu_hours * prices.gpu_hour}
    online = {"audio_hours": run_hours, "gpu_hours": online_hours, "cost": online_hours * prices.gpu_hour}
    how = (teacher, layers, corpus, config.pack_frames, compression(config.compress))
    sizes = {name: size_of(name, *how) for name in ENCODINGS}
    rows = []
    for name, size in sizes.items():
        puts, gets = extraction_requests(size, corpus.packs, gpu_hours * 3600)
        storage = size.bytes / 1e9 * prices.storage_gb_month
        requests = puts / 1000 * prices.put_1000 + gets / 1000 * prices.get_1000
        once = extraction["cost"] + storage * prices.months + requests
        run = run_of(size, corpus, run_hours, int(teacher["hidden_size"]), prices)
        rows.append(
            {
                "name": name,
                "bytes": size.bytes,
                "fraction_of_fp32": size.bytes / sizes["fp32"].bytes,
                "bytes_per_second": size.bytes / (gpu_hours * 3600),
                "objects": size.objects,
                "puts": puts,
                "gets": gets,
                "storage_month": storage,
                "requests": requests,
                "once": once,
                "run": run,
                "break_even_runs": break_even(once, online["cost"], run["cost"]),
            }
        )
    return {
        "teacher": published_name(config.teacher),
        "layers": layers,
        "dim": teacher["hidden_size"],
        "precision": config.precision,
        "audio_hours": corpus.hours,
        "utterances": corpus.utterances,
        "utterance_seconds": corpus.hours * 3600 / corpus.utterances,
        "quarantined": corpus.quarantined,
        "frames": corpus.frames,
        "packs": corpus.packs,
        "speed": speed,
        "extraction": extraction,
        "online_run": online,
        "encodings": rows,
        "break_even_runs": next(r["break_even_runs"] for r in rows if r["name"] == ExtractConfig.encoding),
        "prices": dataclasses.asdict(prices),
    }


def corpus_of(config: EstimateConfig, framing: Framing) -> Corpus:
    """The manifest's utterances, or enough utterances of one length to make up the hours."""
    if config.manifest is not None:
        return Corpus.of_manifest(config.manifest, framing, config.max_seconds, config.pack_frames)
    assert config.hours is not None
    return Corpus.of_hours(config.hours, config.utterance_seconds, framing, config.max_seconds, config.pack_frames)


def run_of(size: Size, corpus: Corpus, run_hours: float, dim: int, prices: Prices) -> dict[str, Any]:
    """The requests, bytes and cost of one student run, in the cheaper of two ways.

    With ``direct``, the run reads the cache where it is, batch by batch. With ``copied``, it first copies every shard
    that it needs to its own disk.
    """
    run: dict[str, Any] = {
        "direct_gets": run_requests(size, corpus, run_hours * 3600, TrainConfig(), dim),
        "direct_bytes": round(size.read_bytes * run_hours / corpus.hours),
        "copied_gets": size.read_arrays * corpus.packs,
        "copied_bytes": size.read_bytes,
    }
    for way in ("direct", "copied"):
        gets, egress = run[f"{way}_gets"] / 1000 * prices.get_1000, run[f"{way}_bytes"] / 1e9 * prices.egress_gb
        run[f"{way}_cost"] = gets + egress
    run["reads"] = "direct" if run["direct_cost"] <= run["copied_cost"] else "copied"
    return run | {"cost": run[f"{run['reads']}_cost"]}


# --- for people -----------------------------------------------------------------------------------------------------


def plan_command(config: EstimateConfig, prices_file: Path | None, as_json: bool) -> int:
    """Print the estimated size and cost of a cache."""
    prices = load_prices(prices_file)
    result = estimate(config, prices)
    if as_json:
        console.emit(result)
    else:
        show(result, prices, config)
    return EXIT_OK


def show(result: dict[str, Any], prices: Prices, config: EstimateConfig) -> None:
    """Print the table on stdout, and sentences that explain it on stderr."""
    money = prices.money
    rows = [
        [
            row["name"],
            console.size(row["bytes"]),
            f"{row['fraction_of_fp32']:.0%}",
            money(row["storage_month"]),
            money(row["once"]),
            money(row["run"]["cost"]),
            "never" if row["break_even_runs"] is None else f"{row['break_even_runs']:,}",
        ]
        for row in result["encodings"]
    ]
    hours = f"{result['audio_hours']:,.{0 if result['audio_hours'] >= 100 else 2}f} h"
    title = f"{hours} of audio, {len(result['layers'])} layers of {result['dim']} values from {result['teacher']}"
    columns = ["encoding", "at most", "of fp32", "per month", "once", "per run", "paid after"]
    console.print_table(title, columns, rows)
    for line in sentences(result, prices, config):
        console.say(textwrap.fill(line, 78, subsequent_indent="  "))


def sentences(result: dict[str, Any], prices: Prices, config: EstimateConfig) -> list[str]:
    """Explain the table's columns, and what was assumed."""
    money, speed, online = prices.money, result["speed"], result["online_run"]
    name = ExtractConfig.encoding
    row = next(row for row in result["encodings"] if row["name"] == name)
    run, extraction = row["run"], result["extraction"]
    length = f"{result['utterance_seconds']:.1f} s each"
    source = {"measured": f"measured on {speed['device']}", "given": "as given", "assumed": "ASSUMED"}[
        speed["source"]
    ]
    advice = {
        "measured": " This is the forward pass alone; extraction also decodes, encodes and writes.",
        "given": "",
        "assumed": " Measure the speed with --measure where the teacher will run, or give it with --speed.",
    }[speed["source"]]
    unchosen = "copied" if run["reads"] == "direct" else "direct"
    ways = {
        "direct": "reads the cache where it is, batch by batch",
        "copied": "first copies what it needs to its own disk",
    }
    cpu = speed["device"] == "cpu"
    machine, machine_hours = ("this machine", "hours of this machine") if cpu else ("one GPU", "GPU-hours")
    chosen, other = (f"{run[f'{way}_gets']:,} gets, {money(run[f'{way}_cost'])}" for way in (run["reads"], unchosen))
    lines = [
        f"Corpus: {result['utterances']:,} utterances, {length}{'' if config.manifest else ' (assumed)'}; "
        f"{result['quarantined']:,} would be quarantined; {result['packs']:,} packs.",
        f"Teacher: {speed['realtime_factor']:,.0f}× real time in {result['precision']}, {source}: "
        f"{console.duration(extraction['gpu_hours'] * 3600)} of {machine}, {money(extraction['cost'])}.{advice}",
        f"Cache: {row['objects']:,} objects in {name}, written at up to {console.size(row['bytes_per_second'])} per "
        f"second with {row['puts']:,} puts and {row['gets']:,} gets, {money(row['requests'])}. Sizes are upper "
        "bounds, before lossless compression.",
        f"Once: the teacher, {prices.months:g} months of storage, and these requests.",
        f"Per run: {online['audio_hours']:,.0f} h of audio{'' if config.run_hours else ', the default schedule'}. "
        f"With the teacher online it takes {online['gpu_hours']:,.1f} {machine_hours} more, {money(online['cost'])}. "
        f"From a cache in {name} it {ways[run['reads']]}: {chosen} ({other} if it {ways[unchosen]}).",
    ]
    if row["break_even_runs"] is None:
        lines.append(
            f"A cache in {name} never pays off: a run from it costs no less than one with the teacher online."
        )
    else:
        runs = f"{row['break_even_runs']:,} student run{'s' * (row['break_even_runs'] > 1)}"
        lines.append(f"A cache in {name} has paid for itself after {runs}.")
    return [
        *lines,
        "Prices vary. To use yours: gdist plan --show-prices > prices.toml, edit it, and add --prices prices.toml.",
    ]
