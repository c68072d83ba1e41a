"""What libsndfile does not read, through PyAV; and without it, what is said."""

import wave
from pathlib import Path

import numpy as np
import obstore
import pytest
import soundfile
from recordings import RATE

from gdist.pipeline.audio import Segment, load_utterance, media, read_header
from gdist.pipeline.errors import AudioError, ManifestError
from gdist.pipeline.manifest.table import build, check
from gdist.pipeline.storage.objects import Storage

TONE = (0.3 * np.sin(2 * np.pi * 440 / RATE * np.arange(2 * RATE)) * 32_767).astype(np.int16)
CODECS = {"m4a": "aac", "mp4": "alac", "webm": "libopus", "mka": "aac"}


def media_file(path: Path, codec: str, samples: np.ndarray = TONE) -> Path:
    av = pytest.importorskip("av")
    rate = 48_000 if codec == "libopus" else RATE
    container = av.open(str(path), "w", format={"m4a": "mp4", "mka": "matroska"}.get(path.suffix[1:]))
    stream = container.add_stream(codec, rate=rate, layout="mono")
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = RATE
    resampler = av.AudioResampler(stream.codec_context.format, "mono", rate, stream.codec_context.frame_size or None)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))
    container.close()
    return path


@pytest.mark.parametrize("suffix", CODECS)
def test_it_is_decoded(tmp_path: Path, suffix: str) -> None:
    path = media_file(tmp_path / f"a.{suffix}", CODECS[suffix])
    header = read_header(Segment(str(path)))
    assert header.channels == 1 and not header.cut
    seconds = header.num_samples / header.sample_rate
    assert seconds == pytest.approx(2, abs=0.15)
    whole = Segment(str(path), 0, header.num_samples, header.sample_rate)
    samples = load_utterance(whole)
    spectrum = np.abs(np.fft.rfft(samples[8_000:24_000]))
    assert spectrum.argmax() == 440 and 0.2 < np.abs(samples[8_000:24_000]).max() / 32_768 < 0.4
    if header.sample_rate == RATE:
        np.testing.assert_array_equal(load_utterance(whole.part(9_000, 3_000)), samples[9_000:12_000])
    if suffix == "mp4":  # lossless
        np.testing.assert_array_equal(samples[: len(TONE)], TONE)
    obstore.put(Storage("memory://media").store, path.name, path.read_bytes())
    remote = Segment(f"memory://media/{path.name}", 0, header.num_samples, header.sample_rate)
    assert read_header(remote) == header
    np.testing.assert_array_equal(load_utterance(remote), samples)


def test_what_is_cut_short_or_nothing(tmp_path: Path) -> None:
    data = media_file(tmp_path / "a.mka", "aac").read_bytes()
    (tmp_path / "a.mka").write_bytes(data[: len(data) // 2])
    assert "s more than decode" in read_header(Segment(str(tmp_path / "a.mka"))).cut
    (tmp_path / "b.m4a").write_bytes(b"hello, world" * 99)
    with pytest.raises(AudioError, match="not audio PyAV can decode"):
        read_header(Segment(str(tmp_path / "b.m4a")))
    with wave.open(str(tmp_path / "c.mp4"), "wb") as misnamed:
        misnamed.setparams((1, 2, RATE, 0, "NONE", ""))
        misnamed.writeframes(TONE.tobytes())
    assert read_header(Segment(str(tmp_path / "c.mp4"))).num_samples == len(TONE)


class TestWithout:
    @pytest.fixture(autouse=True)
    def without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(media, "available", lambda: False)

    def test_a_folder_says_what_it_leaves_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        soundfile.write(tmp_path / "one.wav", TONE, RATE)
        for name in ("a.m4a", "b.m4a", "c.M4A", "d.webm", "notes.txt"):
            (tmp_path / name).write_bytes(b"\0\0\0 ftypM4A and more")
        assert len(build(tmp_path, tmp_path / "m.parquet").table) == 1
        assert "skipped 3 × .m4a, 1 × .webm; pip install 'gdist[media]'" in capsys.readouterr().err
        (tmp_path / "one.wav").unlink()
        with pytest.raises(ManifestError, match=r"no audio below"):
            build(tmp_path, tmp_path / "m.parquet")

    def test_a_table_that_names_one(self, tmp_path: Path) -> None:
        (tmp_path / "a.m4a").write_bytes(b"\0\0\0 ftypM4A and more")
        (tmp_path / "m.csv").write_text("id,path\na,a.m4a\n")
        built = build(tmp_path / "m.csv", tmp_path / "m.parquet")
        for problems in (built.problems, check(built)):
            assert "PyAV may: pip install 'gdist[media]'" in problems[0].reason
