"""Files that speech comes with and that are no manifests gdist reads: what they are, and how to convert them."""

import re

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import head
from gdist.pipeline.manifest.sources.tars import is_tar, refuse_compressed
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.paths import Place

_CSV = (
    "write a CSV with the columns id, path, start, num_samples and your labels; start and num_samples count samples"
)
_KALDI = "write a Kaldi folder, wav.scp and segments, whose seconds gdist reads"

# Suffix, or the first bytes, to what it is and what to do about it.
_BY_SUFFIX = {
    ".textgrid": ("a TextGrid of Praat, which names no audio", _KALDI),
    ".rttm": ("an RTTM, which says who speaks when and names no audio file", _KALDI),
    ".ctm": ("a CTM, which has times of words and names no audio file", _KALDI),
    ".stm": ("an STM, which has times of utterances and names no audio file", _KALDI),
    ".eaf": ("an annotation of ELAN", f"export it from ELAN as tab-delimited text, and {_CSV}"),
    ".trs": ("an annotation of Transcriber", _KALDI),
    ".srt": ("subtitles, which name no audio", _CSV),
    ".vtt": ("subtitles, which name no audio", _CSV),
    ".lst": ("a list of flashlight or wav2letter (id, path, milliseconds, text)", _CSV),
    ".pt": ("a pickle of PyTorch, which gdist never runs", _CSV),
    ".pth": ("a pickle of PyTorch, which gdist never runs", _CSV),
    ".pkl": ("a pickle, which gdist never runs", _CSV),
    ".pickle": ("a pickle, which gdist never runs", _CSV),
    ".tfrecord": ("a TFRecord", "write its audio to files, one per utterance, and use the folder"),
    ".mdb": ("an LMDB", "write its audio to files, one per utterance, and use the folder"),
    ".ark": ("an ark of Kaldi", "give the wav.scp that names its parts"),
    ".xlsx": ("a workbook of Excel", "save the sheet as CSV, with the columns id and path"),
    ".yaml": ("YAML", "of lhotse: lhotse copy IN.yaml OUT.jsonl.gz; else write a CSV with the columns id and path"),
    ".yml": ("YAML", "of lhotse: lhotse copy IN.yml OUT.jsonl.gz; else write a CSV with the columns id and path"),
    ".npy": ("an array of NumPy", "write its audio to files: soundfile.write(PATH, array, RATE)"),
    ".npz": ("arrays of NumPy", "write its audio to files: soundfile.write(PATH, array, RATE)"),
}
_BY_MAGIC = {
    b"SQLite format 3": (
        "a database of SQLite",
        "export a table as CSV: sqlite3 -header -csv IN.db 'SELECT …' > OUT.csv",
    ),
    b"\x89HDF": ("HDF5", "write its audio to files: soundfile.write(PATH, array, RATE)"),
    b"PK\x03\x04": ("a zip", "unpack it and give the folder: unzip IN.zip -d FOLDER"),
    b"\x80\x02": ("a pickle, which gdist never runs", _CSV),
    b"\x80\x03": ("a pickle, which gdist never runs", _CSV),
    b"\x80\x04": ("a pickle, which gdist never runs", _CSV),
    b"\x80\x05": ("a pickle, which gdist never runs", _CSV),
    b"7z\xbc\xaf": ("an archive of 7-Zip", "unpack it and give the folder: 7z x IN.7z"),
}


def refuse_known(src: Place) -> None:
    """Raise ManifestError where ``src`` is of a kind that gdist knows and does not read."""
    if is_tar(src):
        refuse_compressed(src)
    start = head(src, 16)
    by_magic = next((known for magic, known in _BY_MAGIC.items() if start.startswith(magic)), None)
    known = _BY_SUFFIX.get(src.suffix.lower()) or by_magic
    if known is None and re.match(rb"\s*[\[{]\s*[\r\n]", head(src, 256)) is not None:
        known = ("JSON over several lines", "gdist reads one object per line: jq -c '.[]' IN.json > OUT.jsonl")
    if known:
        hint = re.sub(r"\bIN(\.\w+)?\b", lambda _: in_shell(src), known[1])
        raise ManifestError(f"cannot build a manifest from {src}: it is {known[0]}", hint)
