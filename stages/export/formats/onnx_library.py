"""The libraries of the extra ``onnx``: whether they are there, and a session of ONNX Runtime."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from gdist.pipeline.errors import ExportError

NEEDED = ("onnx", "onnxruntime", "onnxscript")


def available() -> bool:
    """Return whether the extra ``onnx`` is installed."""
    return all(importlib.util.find_spec(library) for library in NEEDED)


def require(library: str) -> Any:
    """Import one of the libraries of the extra ``onnx``."""
    if importlib.util.find_spec(library) is None:
        raise ExportError(f"--format onnx needs {library}, which is not installed", 'pip install "gdist[onnx]"')
    return importlib.import_module(library)


def open_session(model: Path | bytes, threads: int = 0) -> Any:
    """Open an ONNX Runtime session on the CPU, for a file or what is in one; 0 threads means one thread per core."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin while waiting for the next run would take the cores from PyTorch, which runs alternately.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    source = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
