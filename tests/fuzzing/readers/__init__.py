"""The table of readers: name → module and class. A module is imported when its reader is run."""

import importlib

from fuzzing import Reader

READERS = {
    "root": "cache_documents:RootDocument",
    "receipts": "cache_documents:Receipts",
    "summaries": "cache_documents:Summaries",
    "lock": "cache_documents:LockDocument",
    "index-bytes": "cache_contents:IndexBytes",
    "index-contents": "cache_contents:IndexContents",
    "array-metadata": "cache_contents:ArrayMetadata",
    "shards": "cache_contents:Shards",
    "cached-teacher-config": "cache_teacher:Config",
    "teacher-folder": "teacher_folder:TeacherFolder",
    "cached-tensors": "cache_teacher:Tensors",
    "run": "run_documents:RunDocuments",
    "student": "student_files:StudentFiles",
    "sweep-file": "sweeps:SweepFile",
    "sweep": "sweeps:SweepDocuments",
    "export": "sweeps:ExportMark",
    "options": "options:Options",
    "settings": "settings:Settings",
    "manifest": "manifests:Parquet",
    "csv": "manifests:Text",
    "tsv": "manifests:Tsv",
    "fairseq": "manifests:Fairseq",
    "lhotse": "manifests:Lhotse",
    "lhotse.gz": "manifests:LhotseGz",
    "recordings": "manifests:Recordings",
    "nemo": "manifests:Nemo",
    "kaldi": "manifests:Kaldi",
    "segments": "manifests:KaldiSegments",
    "commonvoice": "manifests:CommonVoice",
    "speechbrain": "manifests:SpeechBrain",
    "audiofolder": "manifests:AudioFolder",
    "audio": "manifests:Headers",
}


def reader_class(name: str) -> type[Reader]:
    """Return the class behind a row of the table, or behind ``module:Class``."""
    module, _, what = READERS.get(name, name).partition(":")
    found: type[Reader] = getattr(importlib.import_module(f"fuzzing.readers.{module}"), what)
    return found
