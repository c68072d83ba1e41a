"""Which utterances of a cache are used for training, validation and testing: the usable ones, by split."""

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entries, Entry, Numbers, ids, label, named, subset
from gdist.pipeline.cache.needs import Needs, repair_command
from gdist.pipeline.cache.plan import WAVEFORM, layer_arrays
from gdist.pipeline.config import TomlTables, build, require
from gdist.pipeline.console import say
from gdist.pipeline.errors import CacheDamagedError, CacheError
from gdist.pipeline.loading.joined import Source, joined
from gdist.pipeline.loading.matching import common


@dataclass(frozen=True)
class DataConfig:
    """Which utterances, and how much of each.

    Attributes:
        train_split, valid_split, test_split: patterns for the manifest's ``split`` column, comma-separated
            (``train*`` matches LibriSpeech's train-clean-100).
        valid_fraction: the share of the training utterances that is held out where nothing matches ``valid_split``,
            chosen by a hash of their ids.
        crop_seconds: longer utterances are cropped in training; 0 keeps them whole. A crop starts on a chunk
            boundary of the cache, so that nothing is read unnecessarily, and the last crop may be shorter. The
            teacher computed the cached frames from the whole utterance; the student sees only the crop.
        seed: of the order of utterances and of the crops; None for the run's own seed.
        skip_missing: leave out packs that are missing or incomplete, instead of refusing the cache.
        skip_damaged: leave out utterances that turn out to be damaged when they are read.
    """

    train_split: str = "train*"
    valid_split: str = "valid*,dev*"
    test_split: str = "test*"
    valid_fraction: float = 0.02
    crop_seconds: float = 15.0
    seed: int | None = None
    skip_missing: bool = False
    skip_damaged: bool = False

    def __post_init__(self) -> None:
        require(self.crop_seconds >= 0, f"data.crop_seconds = {self.crop_seconds}: must be 0 (whole) or more")
        require(0 < self.valid_fraction < 1, f"data.valid_fraction = {self.valid_fraction}: must be between 0 and 1")
        require(0 <= (self.seed or 0) < 2**31, f"data.seed = {self.seed}: must be between 0 and 2³¹−1")


def data_config(tables: TomlTables) -> DataConfig:
    """Return the part of a run's resolved config that says which utterances the run uses, in whatever order."""
    return replace(build(_DataOnly, {"data": tables.get("data", {})}).data, seed=None)


@dataclass(frozen=True)
class _DataOnly:
    data: DataConfig = field(default_factory=DataConfig)


SKIP = ", or use --set data.skip_missing=true to leave them out"


def usable_entries(
    cache: Source, skip_missing: bool = False, layers: Sequence[int] | None = None, otherwise: str = SKIP
) -> Entries:
    """Return the utterances whose data is in the cache: committed, not quarantined, with objects of the right size.

    Of several caches, those that are usable in all of them, as the first one has them.

    Args:
        layers: the layers that will be read, in addition to the audio; None for all.
        otherwise: ends the hint, with what else the command at hand offers.

    Raises:
        CacheError: packs are missing, unless ``skip_missing``.
        CacheDamagedError: objects of committed packs are missing or cut short, unless ``skip_missing``.
        CacheMismatchError: several caches have no utterance in common, or one of another length.
    """
    caches = joined(cache)
    usable = []
    for part in caches.parts:
        own = None if layers is None else [part.layers[number] for number in layers if number in part.layers]
        usable.append(_usable(part.cache, skip_missing, own, otherwise))
    entries, *others = usable
    for part, found in zip(caches.parts[1:], others, strict=True):
        entries = common(caches.first, entries, part.cache, found)
    return entries


def _usable(cache: Cache, skip_missing: bool, layers: Sequence[int] | None, otherwise: str) -> Entries:
    now = cache.standing()
    missing = {task.pack for task in now.todo()}
    if missing and not skip_missing:
        raise CacheError(
            f"the cache at {cache.uri} is unfinished: {len(missing)} of {cache.packs} packs are missing",
            f"run the same `gdist extract` again to finish it{otherwise}",
        )
    names = [*layer_arrays(cache.identity, cache.layers if layers is None else layers), WAVEFORM]
    broken = now.broken(names)
    if broken and not skip_missing:
        pack, reason = next(iter(broken.items()))
        needs = Needs(teacher=bool(now.broken(names[:-1])), manifest=bool(now.broken([WAVEFORM])))
        raise CacheDamagedError(
            f"{len(broken)} of {cache.packs} packs of the cache at {cache.uri} are damaged; pack {pack}: {reason}",
            f"{repair_command(cache.uri, cache.gdist, needs)}{otherwise}",
        )
    keep = cache.entries.numbers("num_frames") > 0
    if unusable := missing | broken.keys():
        keep &= ~np.isin(cache.entries.numbers("pack"), list(unusable))
    return cache.entries.take(np.flatnonzero(keep & ~named(cache.entries, now.quarantine())))


class Splits(dict[str, Sequence[Entry]]):
    """The utterances by split: ``train``, ``valid`` and ``test``.

    Attributes:
        also_trained_on: how many utterances of another split are training utterances too; a split without any is
            absent. What is measured on these says how well they are remembered, and nothing about other speech.
    """

    def __init__(self, splits: Mapping[str, Sequence[Entry]], also_trained_on: Mapping[str, int]) -> None:
        super().__init__(splits)
        self.also_trained_on = dict(also_trained_on)

    def warn(self, names: Iterable[str] = ("valid", "test")) -> None:
        """Say which of these splits have training utterances."""
        for name in names:
            if count := self.also_trained_on.get(name):
                say(
                    f"{count} of the {len(self[name])} utterances of the split {name} are trained on, too: what is "
                    "measured on them says nothing about other speech. More utterances, or "
                    f"--set data.{name}_split=…, keep them apart",
                    style="yellow",
                )


def choose_splits(entries: Sequence[Entry], config: DataConfig) -> Splits:
    """Choose the ``train``, ``valid`` and ``test`` utterances. Without a ``split`` column, all are for training
    except the held-out fraction.

    Splits overlap where the patterns do, and where there is a single utterance, which is then held out as well.
    """

    codes, found = label(entries, "split")

    def matching(patterns: str) -> Numbers:
        wanted = [pattern.strip() for pattern in patterns.split(",")]
        matched = [any(fnmatch.fnmatch(str(value), p) for p in wanted) for value in found]
        return np.array(matched, bool)[codes]

    used = [found[code] for code in np.unique(codes).tolist()]
    labelled = any(value is not None for value in used)
    train = matching(config.train_split) if labelled else np.ones(len(entries), bool)
    valid, test = matching(config.valid_split), matching(config.test_split)
    if not train.any():
        named = ", ".join(sorted({str(value) for value in used}))
        raise CacheError(
            f"no utterance of the cache is in the training split {config.train_split!r} (splits: {named})",
            "name one with --set data.train_split=…",
        )
    if not valid.any():
        valid = _held_out(entries, train, config.valid_fraction)
        train = train & ~valid if (train & ~valid).any() else train
    shared = {name: int((keep & train).sum()) for name, keep in (("valid", valid), ("test", test))}
    return Splits(
        {name: subset(entries, keep) for name, keep in (("train", train), ("valid", valid), ("test", test))},
        {name: count for name, count in shared.items() if count},
    )


def _held_out(entries: Sequence[Entry], train: Numbers, fraction: float) -> Numbers:
    """Return which of the training utterances to hold out: those whose ids have the smallest SHA-256."""
    count = max(round(int(train.sum()) * fraction), 1)
    heads = np.fromiter((_rank(name)[:8] for some in ids(entries) for name in some), "V8", len(entries)).view(">u8")
    # More than ``count`` are near only if two digests begin with the same eight bytes.
    near = train & (heads <= np.partition(heads[train], count - 1)[count - 1])
    names = [name for some in ids(subset(entries, near)) for name in some]
    ranked = sorted(range(len(names)), key=lambda place: _rank(names[place]))
    held = np.zeros(len(entries), bool)
    held[np.flatnonzero(near)[ranked[:count]]] = True
    return held


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
