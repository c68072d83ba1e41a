"""What a file claims is not believed: it costs no memory and no time, and it is quarantined with the figure."""

import os
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import noise

from gdist.pipeline.audio import Segment, bounds, load, measure, read_header
from gdist.pipeline.errors import AudioError
from gdist.pipeline.storage.objects import Storage


def outcome(segment: Segment) -> str:
    """What reading the header and decoding give, without the name."""
    try:
        header = read_header(segment)
        known = Segment(segment.path, 0, header.num_samples, header.sample_rate)
        return f"{header.num_samples} {load(known).samples_S[:50].tolist()}"
    except AudioError as error:
        return error.message.replace(segment.path, "FILE")


def in_bucket(data: bytes, name: str) -> Segment:
    Storage(f"memory://bounds-{name}", create=True).put("a.wav", data)
    return Segment(f"memory://bounds-{name}/a.wav")


@pytest.mark.parametrize(
    ("rate", "channels", "words"),
    [
        (200_000_000, 1, "has 200,000,000 Hz; gdist reads 1,000 to 1,000,000 Hz: FILE"),
        (16_700_001, 1, "has 16,700,001 Hz; gdist reads 1,000 to 1,000,000 Hz: FILE"),
        (16_000_001, 2, "has 16,000,001 Hz; gdist reads 1,000 to 1,000,000 Hz: FILE"),
        (999_983, 1, "cannot resample 999983 Hz to 16000 Hz: it would need a filter of 15,999,728,000 values"),
        (1, 1, "has 1 Hz; gdist reads 1,000 to 1,000,000 Hz: FILE"),
        (16_000, 255, "has 255 channels; gdist reads at most 64: FILE"),
    ],
)
def test_beyond_a_bound_is_quarantined_with_the_figure(tmp_path: Path, rate: int, channels: int, words: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((2_000, channels), np.int16), rate)
    tracemalloc.start()
    try:
        assert outcome(Segment(str(path))) == words
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert outcome(in_bucket(path.read_bytes(), f"{rate}-{channels}")) == words


@pytest.mark.parametrize("suffix", ["ogg", "flac"])
def test_channels_of_other_formats(tmp_path: Path, suffix: str) -> None:
    path, most = tmp_path / f"a.{suffix}", 255 if suffix == "ogg" else 8
    soundfile.write(path, np.zeros((16_000, most)), 16_000)
    found = outcome(Segment(str(path)))
    assert found.startswith("has 255 channels" if most > bounds.MAX_CHANNELS else "16000 [0, 0")


def test_the_largest_rate_that_is_read_resamples(tmp_path: Path) -> None:
    path, seconds = tmp_path / "a.wav", 3
    time_S = np.arange(seconds * 1_000_000) / 1_000_000
    soundfile.write(path, np.sin(2 * np.pi * 440 * time_S) / 2, 1_000_000)
    samples_S = load(Segment(str(path), 0, len(time_S), 1_000_000)).samples_S
    expected_S = np.sin(2 * np.pi * 440 * np.arange(len(samples_S)) / 16_000) * 16_384
    assert len(samples_S) == seconds * 16_000
    np.testing.assert_allclose(samples_S[100:-100], expected_S[100:-100], atol=20)


def test_a_long_recording_is_measured_in_little_memory(tmp_path: Path) -> None:
    """Half an hour would be 230 MB as float64, and ten hours 4.6 GB."""
    path, hour = tmp_path / "a.flac", 3600 * 8_000
    with soundfile.SoundFile(path, "w", 8_000, 2, "PCM_16") as file:
        for _ in range(30):
            file.write(np.full((hour // 60, 2), 1_000, np.int16))
    tracemalloc.start()
    try:
        signal = measure(Segment(str(path), 0, hour // 2, 8_000))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert signal.peak == pytest.approx(1_000 / 32_768)


def test_an_utterance_of_ten_hours_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(16_000), 16_000)
    for decode in (load, measure):
        with pytest.raises(AudioError, match=r"10\.0 h long, and an utterance may have 4 h: cut it"):
            decode(Segment(str(path), 0, 36_000 * 16_000, 16_000))


def test_a_damaged_header_is_the_same_in_a_bucket_as_in_a_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, random = tmp_path / "a.wav", np.random.default_rng(0)
    soundfile.write(path, noise(1_000), 16_000, subtype="FLOAT")  # with a fact and a PEAK chunk
    whole = path.read_bytes()
    cases = [whole[:length] for length in range(1, 100)]
    for at in range(80):
        for value in (0, 0x7F, 0x80, 0xFF, int(random.integers(256))):
            cases.append(whole[:at] + bytes([value]) + whole[at + 1 :])
    for at in range(4, 76, 4):  # a whole field: sizes that point before the beginning
        cases.extend(
            whole[:at] + value.to_bytes(4, "little") + whole[at + 4 :] for value in (2**32 - 8, 2**31, 2**16)
        )
    differ = []
    for number, data in enumerate(cases):
        path.write_bytes(data)
        here, there = outcome(Segment(str(path))), outcome(in_bucket(data, f"damaged-{number}"))
        if here != there:
            differ.append((number, here, there))
    assert not differ, differ[:3]
    assert "Traceback" not in capfd.readouterr().err  # of libsndfile's callbacks


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.wav"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")
    began = time.monotonic()
    with pytest.raises(AudioError, match="is no file, but a device, a pipe or a socket"):
        read_header(Segment(str(path)))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("chunks.wav", b"RIFF\0\0\0\0WAVE" + bytes(1 << 20)),  # a million empty chunks
        ("streams.aiff", b"FORM\0\0\0\x04AIFF" * 20_000),
        ("pages.ogg", b"OggS\0\x02" + bytes(21)),
        ("frames.mp3", b"\xff\xfb\x10\x00" + bytes(100)),
    ],
)
def test_nothing_takes_longer_than_its_size(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data if len(data) > 1_000 else data * 20_000)
    began = time.monotonic()
    with suppress(AudioError):  # the MP3 is one
        read_header(Segment(str(path)))
    assert time.monotonic() - began < 5
