"""Lengths are what decodes: headers that estimate, streams in a row, files that were cut short."""

from pathlib import Path

import numpy as np
import obstore
import pytest
from recordings import (
    RATE,
    Maker,
    decoded,
    encoded,
    fading,
    mp3,
    noise,
    streamed_flac,
    streamed_wav,
    without_xing,
)

from gdist.pipeline.audio import Header, Segment, load, load_utterance, measure, mismatch, read_header
from gdist.pipeline.errors import AudioError
from gdist.pipeline.manifest.table import build, check
from gdist.pipeline.storage.objects import Storage

LONG = 4 * RATE

WHOLE: dict[str, tuple[str, Maker]] = {
    "vbr": ("mp3", lambda: without_xing(mp3(LONG))),
    "cbr": ("mp3", lambda: without_xing(mp3(LONG, mode="CONSTANT"))),
    "tags": ("mp3", lambda: b"ID3\4\0\0\0\0\0\7titles!" + mp3(LONG) + b"TAG" + bytes(125)),
    "two-mp3": ("mp3", lambda: mp3(LONG) + mp3(RATE, seed=1)),
    "two-mp3-tagged": ("mp3", lambda: mp3(LONG) + b"ID3\4\0\0\0\0\0\7titles!" + mp3(LONG, seed=1)),
    "two-mp3-piped": ("mp3", lambda: without_xing(mp3(LONG)) + without_xing(mp3(LONG, seed=1))),
    "two-ogg": ("ogg", lambda: encoded(noise(LONG), "OGG") + encoded(noise(RATE, seed=1), "OGG")),
    "two-opus": ("opus", lambda: encoded(noise(LONG), "OGG", "OPUS") + encoded(noise(LONG), "OGG", "OPUS")),
    "two-flac": ("flac", lambda: encoded(noise(LONG), "FLAC") + encoded(noise(RATE, seed=1), "FLAC")),
    "three-flac": ("flac", lambda: b"".join(encoded(noise(LONG, seed=seed), "FLAC") for seed in range(3))),
    "two-wav": ("wav", lambda: encoded(noise(LONG), "WAV") + encoded(noise(RATE), "WAV")),
    "two-aiff": ("aiff", lambda: encoded(noise(LONG), "AIFF") + encoded(noise(RATE), "AIFF")),
    "flac": ("flac", lambda: encoded(noise(LONG), "FLAC")),
    "streamed-flac": ("flac", lambda: streamed_flac(LONG)),
    "streamed-wav": ("wav", lambda: streamed_wav(LONG)),
    "gsm": ("wav", lambda: encoded(noise(LONG), "WAV", "GSM610")),
    "g721": ("wav", lambda: encoded(noise(LONG), "WAV", "G721_32")),
    "adpcm": ("wav", lambda: encoded(noise(LONG), "WAV", "IMA_ADPCM")),
    "au": ("au", lambda: encoded(noise(LONG), "AU", "ULAW")),
    "sphere": ("sph", lambda: encoded(noise(LONG), "NIST", "ULAW")),
}
STREAMS = {name: 3 if name.startswith("three") else 2 for name in WHOLE if name.startswith(("two", "three"))}
STREAMS["two-mp3-piped"] = 1  # nothing says where the second begins


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("remote", [False, True])
def test_all_of_it_is_there(tmp_path: Path, name: str, remote: bool) -> None:
    suffix, make = WHOLE[name]
    data = make()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    segment = Segment(str(path))
    if remote:
        obstore.put(Storage("memory://lengths").store, f"{name}.{suffix}", data)
        segment = Segment(f"memory://lengths/{name}.{suffix}")
    header = read_header(segment, thorough=True)
    # All of one length, only a thorough look shows it; in a bucket, the end of a FLAC costs another request.
    if name != "three-flac" and not (remote and name == "two-flac"):
        assert header == read_header(segment)
    assert header.streams == STREAMS.get(name, 1) and not header.cut and header.sample_rate == RATE
    seconds = 2 * LONG if name in ("two-mp3-piped", "two-mp3-tagged", "two-opus") else LONG
    seconds = {"three-flac": 3 * LONG}.get(
        name, seconds + RATE if header.streams == 2 and seconds == LONG else seconds
    )
    assert abs(header.num_samples - seconds) < 4_000, "a frame or two of padding per stream"
    whole = Segment(segment.path, 0, header.num_samples, RATE)
    samples = load_utterance(whole)
    assert len(samples) == header.num_samples
    for start, length in ((100, 3_000), (header.num_samples - 5_000, 5_000), (LONG - 2_000, 1_990)):
        part = load_utterance(whole.part(start, length))
        # A lossy decoder that begins in the middle differs by a bit here and there.
        assert np.abs(part.astype(int) - samples[start : start + length]).max() <= (
            3 if suffix in ("ogg", "opus") else 0
        )


def test_the_parts_are_those_of_the_files(tmp_path: Path) -> None:
    one, other = mp3(LONG), mp3(RATE, seed=1)
    (tmp_path / "a.mp3").write_bytes(one + other)
    expected = np.concatenate([decoded(one), decoded(other)])
    loaded = load_utterance(Segment(str(tmp_path / "a.mp3"), 0, len(expected), RATE))
    np.testing.assert_array_equal(loaded, np.clip(np.rint(expected * 32_768), -32_767, 32_767))


def test_what_was_right_stays_bit_for_bit(tmp_path: Path) -> None:
    for name, data in (("a.mp3", mp3(LONG)), ("b.ogg", encoded(noise(LONG), "OGG"))):
        (tmp_path / name).write_bytes(data)
        segment = Segment(str(tmp_path / name))
        wave = decoded(data)
        assert read_header(segment) == Header(len(wave), RATE, 1)
        loaded = load_utterance(Segment(segment.path, 0, len(wave), RATE))
        np.testing.assert_array_equal(loaded, np.clip(np.rint(wave * 32_768), -32_767, 32_767))


@pytest.mark.parametrize("name", ["vbr", "two-mp3", "two-ogg", "two-flac", "three-flac", "two-wav"])
def test_a_manifest_that_knows_a_part_only_is_refused(tmp_path: Path, name: str) -> None:
    """As other tools, and older versions of this one, measured it."""
    suffix, make = WHOLE[name]
    (tmp_path / f"a.{suffix}").write_bytes(make())
    segment = Segment(str(tmp_path / f"a.{suffix}"))
    header = read_header(segment)
    assert header.claimed is not None and header.claimed < read_header(segment, thorough=True).num_samples - RATE / 2
    with pytest.raises(AudioError, match=r"samples in all, of which the manifest says .* build the manifest again"):
        load(Segment(segment.path, 0, header.claimed, RATE))


def test_a_thorough_manifest_has_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(WHOLE["three-flac"][1]())
    assert build(tmp_path, tmp_path / "m.parquet").utterances()[0].num_samples == LONG
    built = build(tmp_path, tmp_path / "m.parquet", thorough=True)
    assert built.utterances()[0].num_samples == 3 * LONG
    assert check(built) == check(built, audio=True) == []


def test_streams_that_differ_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ogg").write_bytes(encoded(noise(LONG), "OGG") + encoded(noise(LONG, 2), "OGG", rate=8_000))
    with pytest.raises(AudioError, match="several streams in one file, of 16000 Hz with 1 channels and of 8000 Hz"):
        read_header(Segment(str(tmp_path / "a.ogg")))


CUT: dict[str, tuple[str, Maker]] = {
    "wav": ("wav", lambda: encoded(noise(LONG), "WAV")),
    "float": ("wav", lambda: encoded(noise(LONG), "WAV", "FLOAT")),
    "aiff": ("aiff", lambda: encoded(noise(LONG), "AIFF")),
    "au": ("au", lambda: encoded(noise(LONG), "AU", "PCM_16")),
    "sphere": ("sph", lambda: encoded(noise(LONG), "NIST", "PCM_16")),
    "ogg": ("ogg", lambda: encoded(noise(2 * LONG), "OGG")),
    "opus": ("opus", lambda: encoded(noise(4 * LONG), "OGG", "OPUS")),
    "mp3": ("mp3", lambda: encoded(noise(LONG), "MP3")),
    "flac": ("flac", lambda: encoded(noise(LONG), "FLAC")),
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_was_cut_short(tmp_path: Path, name: str) -> None:
    suffix, make = CUT[name]
    data = make()
    (tmp_path / f"a.{suffix}").write_bytes(data[: len(data) // 2])
    segment = Segment(str(tmp_path / f"a.{suffix}"))
    header = read_header(segment)
    assert header.cut and 0 < header.num_samples < 3 * LONG and header.sample_rate == RATE
    assert (mismatch(segment, header) or "").startswith("truncated: its ")
    with pytest.raises(AudioError, match=r"truncated: its (header promises|last page)"):
        load(Segment(segment.path, 0, header.num_samples, RATE))
    before = Segment(segment.path, 0, 2_000, RATE)  # what does not reach the cut can be used
    assert mismatch(before, header) is None and len(load_utterance(before)) == 2_000
    built = build(tmp_path, tmp_path / "m.parquet")
    for problems in (built.problems, check(built), check(built, audio=True)):
        assert [problem.reason[:15] for problem in problems] == ["truncated: its "]


def test_a_cut_mp3_without_a_header_is_what_is_left_of_it(tmp_path: Path) -> None:
    data = without_xing(mp3(LONG, mode="CONSTANT"))
    (tmp_path / "a.mp3").write_bytes(data[: len(data) // 2])
    header = read_header(Segment(str(tmp_path / "a.mp3")))
    assert 0.2 * LONG < header.num_samples < 0.9 * LONG
    assert len(load_utterance(Segment(str(tmp_path / "a.mp3"), 0, header.num_samples, RATE))) == header.num_samples


def test_junk_between_frames_is_passed_over(tmp_path: Path) -> None:
    data = without_xing(mp3(LONG, mode="CONSTANT")) + bytes(range(1, 200)) + without_xing(mp3(LONG, mode="CONSTANT"))
    (tmp_path / "a.mp3").write_bytes(data)
    header = read_header(Segment(str(tmp_path / "a.mp3")))
    assert abs(header.num_samples - 2 * LONG) < 6_000
    signal = measure(Segment(str(tmp_path / "a.mp3"), 0, header.num_samples, RATE))
    assert 0.1 < signal.peak < 1 and "199 bytes are not MP3" in signal.remarks["decoder"]


def test_a_long_picture_before_the_sound(tmp_path: Path) -> None:
    size = 100_000
    tag = b"ID3\4\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)
    for name, data in (("a.mp3", mp3(LONG)), ("b.mp3", without_xing(mp3(LONG)))):
        (tmp_path / name).write_bytes(data)
        (tmp_path / f"with-{name}").write_bytes(tag + data)
        bare, tagged = (Segment(str(tmp_path / each), sample_rate=RATE) for each in (name, f"with-{name}"))
        header = read_header(tagged)
        assert header == read_header(bare)
        one, other = (load_utterance(each.part(0, header.num_samples)) for each in (bare, tagged))
        np.testing.assert_array_equal(one, other)


def test_silence_is_not_the_end(tmp_path: Path) -> None:
    """The case that lost most: half of it silent, at a few bytes per frame."""
    (tmp_path / "a.mp3").write_bytes(without_xing(encoded(fading(10 * RATE), "MP3", bitrate_mode="VARIABLE")))
    built = build(tmp_path, tmp_path / "m.parquet")
    assert abs(built.table["num_samples"][0].as_py() - 10 * RATE) < 4_000 and not built.problems
