"""Kaldi's data folder."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.seconds import seconds
from gdist.pipeline.manifest.sources.labels import ids_from_paths
from gdist.pipeline.manifest.targets.base import Item, Target, left_out, writing

_FILES = {"text": "text", "language": "utt2lang", "gender": "utt2gender"}


class Kaldi(Target):
    """wav.scp, segments, utt2spk, spk2utt, text."""

    name = "kaldi"
    summary = "a data folder of Kaldi and ESPnet: wav.scp, segments, utt2spk, text"

    def write(self, items: Sequence[Item], out: Path) -> list[str]:
        """Write the folder, sorted by id as Kaldi wants it; segments only where one is not all of its file."""
        ordered = sorted(items, key=lambda item: item.utterance.id.encode())
        for item in ordered:
            _require(item.utterance.id, item.utterance.path)
        notes = left_out(ordered, ("speaker", *_FILES))
        files = [item.utterance.path for item in ordered]
        if all(item.whole for item in ordered) and len(set(files)) == len(files):
            _table(out / "wav.scp", {item.utterance.id: item.utterance.path for item in ordered})
        else:
            self._cut(ordered, out)
        speakers = {item.utterance.id: item.utterance.labels.get("speaker") for item in ordered}
        if None in speakers.values():
            notes.append("an utterance without a speaker is its own speaker, as Kaldi needs one for each")
        of = {id: re.sub(r"\s", "_", str(id if speaker is None else speaker)) for id, speaker in speakers.items()}
        _table(out / "utt2spk", of)
        by_speaker = defaultdict(list)
        for id, speaker in of.items():
            by_speaker[speaker].append(id)
        _table(out / "spk2utt", {speaker: " ".join(by_speaker[speaker]) for speaker in sorted(by_speaker)})
        for label, file in _FILES.items():
            values = {item.utterance.id: item.utterance.labels.get(label) for item in ordered}
            known = {id: re.sub(r"\s+", " ", str(value)).strip() for id, value in values.items() if value is not None}
            if known:
                _table(out / file, known)
                if len(known) < len(values):
                    notes.append(f"{len(values) - len(known)} utterances are not in {file}: their {label} is unknown")
        return notes

    def _cut(self, items: Sequence[Item], out: Path) -> None:
        files = list(dict.fromkeys(item.utterance.path for item in items))
        names = [re.sub(r"\s", "_", name) for name in ids_from_paths(files)]
        if len(set(names)) < len(names):
            names = [f"recording-{number:06}" for number in range(len(names))]
        name_of = dict(zip(files, names, strict=True))
        _table(
            out / "wav.scp", {name: path for path, name in sorted(name_of.items(), key=lambda pair: pair[1].encode())}
        )
        cuts = {}
        for item in items:
            rate = item.header.sample_rate
            start, stop = (f"{Decimal(repr(seconds(at, rate))):f}" for at in (item.utterance.start, item.stop))
            cuts[item.utterance.id] = f"{name_of[item.utterance.path]} {start} {stop}"
        _table(out / "segments", cuts)


def _require(id: str, path: str) -> None:
    if re.search(r"\s", id):
        raise ManifestError(f"the id {id!r} has a space in it, which Kaldi cannot have", "rename it in the manifest")
    if path.endswith("|") or path != path.strip() or "\n" in path or re.search(r"\.ark:\d+$", path):
        raise ManifestError(f"Kaldi would not take {path!r} of {id} for a file", "rename the file")


def _table(path: Path, values: Mapping[str, str]) -> None:
    with writing(path) as file:
        for key, value in values.items():
            file.write(f"{key} {value}\n".encode())
