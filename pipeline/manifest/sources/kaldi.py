"""Kaldi's and ESPnet's data folders."""

from collections.abc import Iterator
from dataclasses import dataclass

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.seconds import file_of, headers, segment
from gdist.pipeline.manifest.sources.base import (
    ManifestRow,
    OptionalSource,
    Options,
    filled,
    has,
    is_folder,
    is_there,
    located,
)
from gdist.pipeline.manifest.sources.kaldi_audio import Recordings
from gdist.pipeline.storage.paths import Place

_OF_UTTERANCE = {"text": "text", "utt2spk": "speaker", "utt2lang": "language", "utt2gender": "gender"}
_OF_SPEAKER = {"spk2gender": "gender", "spk2age": "age", "spk2lang": "language"}
_CHANNELS = {"A": 0, "B": 1}


@dataclass(frozen=True)
class _Segment:
    recording: str
    start: str
    stop: str | None  # to the end of the recording
    channel: int | None
    where: str


class Kaldi(OptionalSource):
    """A data folder, or its wav.scp."""

    name = "kaldi"
    reads_both = True
    options = frozenset({"allow_commands"})
    summary = "a data folder of Kaldi or ESPnet, or its wav.scp"

    def rows_with(self, src: Place, options: Options) -> Iterator[ManifestRow]:
        """One row per line of segments or, where there is none, of wav.scp, in its order.

        Labels are text, speaker, language and gender, from text, utt2spk, utt2lang and spk2gender. Seconds become
        samples at the rate in the recording's header. ``FILE.ark:OFFSET`` is read by its bytes. What a command
        prints (``sph2pipe … |``) is written to files next to the manifest, if commands are allowed; else refused.
        """
        scp = src / "wav.scp" if is_folder(src) else src
        folder = scp.parent
        if scp.name == "feats.scp":
            raise ManifestError(f"{scp} lists features, and gdist reads audio", f"give {folder / 'wav.scp'}")
        cuts = dict(_segments(folder / "segments")) if is_there(folder / "segments") else None
        wanted = None if cuts is None else {cut.recording: cut.where for cut in cuts.values()}
        places = Recordings(scp, options, lambda path: located(path, folder)).places(wanted)
        labels = {name: _table(folder / file) for file, name in _OF_UTTERANCE.items() if is_there(folder / file)}
        for file, name in _OF_SPEAKER.items():
            if is_there(folder / file) and name not in labels:
                values, speakers = _table(folder / file), labels.get("speaker", {})
                labels[name] = {utterance: values.get(speaker, "") for utterance, speaker in speakers.items()}
        rows = self._whole(places) if cuts is None else self._cut(places, cuts)
        for row in rows:
            yield row | {name: known.get(str(row["id"])) or None for name, known in labels.items()}

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        return has(src, "wav.scp") if is_folder(src) else src.name.endswith(".scp") and bool(first)

    def _whole(self, places: dict[str, ManifestRow]) -> Iterator[ManifestRow]:
        yield from ({**place, "id": name} for name, place in places.items())

    def _cut(self, places: dict[str, ManifestRow], cuts: dict[str, _Segment]) -> Iterator[ManifestRow]:
        known = headers(map(file_of, places.values()))
        for utterance, cut in cuts.items():
            row: ManifestRow = {**places[cut.recording], "id": utterance}
            if header := known.get(file_of(places[cut.recording])):
                first, length = segment(cut.start, cut.stop, header)
                if length < 0:
                    raise ManifestError(f"{cut.where}: {utterance} ends before it starts, or after its recording")
                row |= {"start": first, "num_samples": length, "sample_rate": header.sample_rate}
            yield row | ({} if cut.channel is None else {"channel": cut.channel})


def _segments(path: Place) -> Iterator[tuple[str, _Segment]]:
    """Yield ``utterance recording start end [channel]``, in seconds; an end of -1 is the recording's."""
    for number, line in filled(path):
        where, cells = f"{path}, line {number}", line.split()
        try:
            utterance, recording, start, stop, *channel = cells
            if not 0 <= float(start) < float("inf") or not float(stop) < float("inf") or len(channel) > 1:
                raise ValueError
            of = None if not channel else _CHANNELS[channel[0]] if channel[0] in _CHANNELS else int(channel[0])
        except ValueError as error:
            raise ManifestError(
                f"{where}: expected an id, a recording, and its start and end in seconds, found {line!r}"
            ) from error
        yield utterance, _Segment(recording, start, None if float(stop) < 0 else stop, of, where)


def _table(path: Place) -> dict[str, str]:
    """Read lines ``ID value``; the value may be missing."""
    pairs = (line.split(maxsplit=1) for _, line in filled(path))
    return {name: value[0].strip() if value else "" for name, *value in pairs}
