"""A GPU's way of collecting a pack's rows gives the CPU's; statistics of layers; memory that does not suffice.

On a CPU, copies are immediate: streams and events are replaced by ones that do nothing.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import extracted

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.errors import DeviceMemoryError
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.extract import pack_rows
from gdist.stages.extract.extractor import Extractor
from gdist.stages.extract.pack_rows import DeviceRows, HostRows, fill_others
from gdist.stages.extract.plan import measure
from gdist.stages.teachers import Teacher, load_teacher


class Nothing:
    """A stream, or an event."""

    def __init__(self, **options: Any) -> None: ...

    def wait_stream(self, other: Any) -> None: ...

    def record(self, stream: Any) -> None: ...

    def synchronize(self) -> None: ...


@pytest.mark.parametrize("encoding", ["fp16", "bf16", "int8", "int4", "fp32"])
def test_rows_collected_on_a_device_are_those_collected_in_memory(
    tiny_teacher: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    extracted(tiny_teacher, speech, tmp_path / "c", encoding=encoding, batch_seconds=6.0)
    cache = Cache.open(str(tmp_path / "c"))
    extractor = Extractor(cache, load_teacher(str(tiny_teacher)))
    utterances, _ = measure(Manifest.read(speech))
    for task in cache.tasks:
        heard = extractor.read(task, [utterances[entry.id] for entry in cache.pack_entries(task.pack)])
        host = extractor.collect(extractor.compute(task, heard))
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
            patched.setattr(torch.cuda, "Event", Nothing)
            patched.setattr(torch.cuda, "current_stream", lambda device: None)
            patched.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
            patched.setattr(pack_rows, "_pinned", lambda shape, dtype: torch.full(shape, 77, dtype=dtype))

            def on_device(task: Any, heard: Any, cut: Any) -> DeviceRows:
                stream: Any = Nothing()
                return DeviceRows(cache, task.layers, heard, cut, torch.device("cpu"), stream)

            patched.setattr(extractor, "_rows", on_device)
            device = extractor.collect(extractor.compute(task, heard))
        assert device.quarantine == host.quarantine and device.statistics == host.statistics
        assert device.rows.keys() == host.rows.keys() == set(cache.arrays_of(task))
        for name, rows in host.rows.items():
            assert device.rows[name].dtype == rows.dtype and device.rows[name].tobytes() == rows.tobytes(), name


def test_a_batch_of_a_pack_is_gathered_from_its_samples(tiny_teacher: Path, speech: Path, tiny_cache: Path) -> None:
    cache = Cache.open(str(tiny_cache))
    extractor = Extractor(cache, load_teacher(str(tiny_teacher)))
    heard = extractor.read(cache.tasks[0], None)
    cut = [heard.entries[:3], heard.entries[3:]]
    stream: Any = Nothing()
    host = HostRows(cache, [0], heard, cut)
    device = DeviceRows(cache, [0], heard, cut, torch.device("cpu"), stream)
    for batch in range(2):
        assert torch.equal(device.waveform(batch), host.waveform(batch))
        assert torch.equal(device.num_frames(batch), host.num_frames(batch))


def test_rows_that_nobody_owns_are_marked() -> None:
    rows = np.zeros((8, 2), np.float16)
    fill_others(rows, [slice(1, 3), slice(3, 4), slice(6, 7)], np.nan)
    assert np.isnan(rows[:, 0]).tolist() == [True, False, False, False, True, True, False, True]
    fill_others(rows, [], np.nan)
    assert np.isnan(rows).all()


@pytest.mark.parametrize(("batch_seconds", "advice"), [(6.0, "--batch-seconds 3 "), (0.1, "--max-seconds ")])
def test_memory_that_does_not_suffice_is_an_error_that_says_what_to_type(
    tiny_teacher: Path,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_seconds: float,
    advice: str,
) -> None:
    computed = 0
    original = Teacher.hidden_states

    def exhausted(self: Teacher, *arguments: Any) -> Any:
        nonlocal computed
        computed += 1
        if computed == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
        return original(self, *arguments)

    monkeypatch.setattr(Teacher, "hidden_states", exhausted)
    with pytest.raises(DeviceMemoryError, match=r"a batch of pack . .* memory of cpu is full: .*2.00 GiB") as raised:
        extracted(tiny_teacher, speech, tmp_path / "c", batch_seconds=batch_seconds)
    assert raised.value.hint is not None and advice in raised.value.hint
    monkeypatch.setattr(Teacher, "hidden_states", original)
    result = extracted(tiny_teacher, speech, tmp_path / "c", batch_seconds=batch_seconds)  # nothing is lost
    assert not Cache.open(str(tmp_path / "c")).todo() and result["utterances"]
