"""Where utterances are placed: the worked example, and what must hold for any corpus."""

from itertools import pairwise

import pyarrow as pa
import pytest
from framings import FRAMINGS
from hypothesis import given
from hypothesis import strategies as st

from gdist.pipeline.cache.entries import Entries, Entry
from gdist.pipeline.cache.index import from_table, to_table
from gdist.pipeline.cache.layout import place
from gdist.pipeline.errors import ManifestError
from gdist.pipeline.framing import WAV2VEC2, Framing

CHUNK, PACK = 128, 512
Lengths = list[tuple[str, int, str | None]]


EVERY = [framing for framing, _ in FRAMINGS.values()]
Corpus = tuple[Framing, Lengths]


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    """A framing, names, sample counts around every edge that matters, and sometimes a problem known beforehand."""
    framing = draw(st.sampled_from(EVERY))
    return framing, draw(utterances(framing.hop))


@st.composite
def utterances(draw: st.DrawFn, hop: int) -> Lengths:
    edges = [0, 159, 160, 200, 201, 399, 400, 559, 560, 719, 720, 479_999, 480_000, 480_001]
    edges += [CHUNK * hop, CHUNK * hop + 1, PACK * hop, PACK * hop + 1]
    samples = draw(st.lists(st.sampled_from(edges) | st.integers(0, PACK * hop + 1000), max_size=40))
    problems = st.sampled_from([None, None, None, "file not found"])
    return [(f"u{i}", n, draw(problems)) for i, n in enumerate(samples)]


def placed(framing: Framing, lengths: Lengths) -> Entries:
    return place(lengths, max_samples=10**9, chunk_frames=CHUNK, pack_frames=PACK, framing=framing)


def chunks(entry: Entry, framing: Framing) -> range:
    """The chunks with an utterance's rows, of hidden states and waveform alike."""
    rows = max(entry.num_frames, entry.num_rows(framing))
    return range(entry.start_frame // CHUNK, -(-(entry.start_frame + rows) // CHUNK)) if rows else range(0)


def test_worked_example() -> None:
    """The table in the module's docstring."""
    samples = [16_000, 64_000, 300, 16_000]
    entries = place([(str(i), n, None) for i, n in enumerate(samples)], 10**9, 128, 256)
    assert [(e.num_samples, e.num_frames, e.pack, e.start_frame) for e in entries] == [
        (16_000, 49, 0, 0),
        (64_000, 199, 1, 256),
        (300, 0, 1, 512),
        (16_000, 49, 2, 512),
    ]
    assert entries[2].problem == "too short: 300 samples at 16 kHz, one frame needs 400"


@given(corpora())
def test_no_chunk_has_two_owners(corpus: Corpus) -> None:
    owned = [chunk for entry in placed(*corpus) for chunk in chunks(entry, corpus[0])]
    assert len(owned) == len(set(owned))


@given(corpora())
def test_utterances_are_whole_in_their_pack_on_a_chunk_boundary(corpus: Corpus) -> None:
    for entry in placed(*corpus):
        if entry.num_frames:
            assert entry.start_frame % CHUNK == 0
            stop = entry.start_frame + max(entry.num_frames, entry.num_rows(corpus[0]))
            assert entry.pack * PACK <= entry.start_frame < stop <= (entry.pack + 1) * PACK


@given(corpora())
def test_order_is_kept_and_packs_leave_no_gap(corpus: Corpus) -> None:
    entries = placed(*corpus)
    assert [e.id for e in entries] == [name for name, _, _ in corpus[1]]
    for before, after in pairwise(entries):
        assert before.start_frame <= after.start_frame
        assert after.pack - before.pack in (0, 1)
    assert not entries or entries[0].pack == 0


@given(corpora())
def test_every_utterance_has_its_frames_or_a_reason(corpus: Corpus) -> None:
    framing, lengths = corpus
    for entry, (_, samples, problem) in zip(placed(framing, lengths), lengths, strict=True):
        longest = min(PACK * framing.hop, framing.longest or 10**9)
        fits = problem is None and framing.num_frames(samples) > 0 and samples <= longest
        assert entry.num_frames == (framing.num_frames(samples) if fits else 0)
        assert (entry.problem is None) == fits
        assert problem is None or entry.problem == problem


@given(corpora(), utterances(320))
def test_appending_never_moves_existing_utterances(corpus: Corpus, more: Lengths) -> None:
    framing, lengths = corpus
    assert placed(framing, lengths + more)[: len(lengths)] == placed(framing, lengths)


@given(corpora())
def test_the_index_reads_back(corpus: Corpus) -> None:
    entries = placed(*corpus)
    labels = pa.table({"speaker": [f"s{i % 3}" for i in range(len(entries))], "digit": list(range(len(entries)))})
    again = from_table(to_table(entries, labels if entries else None))
    assert again == entries
    assert [e.labels for e in again] == (labels.to_pylist() if entries else [])


def test_too_long_says_what_to_do() -> None:
    advice = "(manifest build --split-seconds cuts it)"
    (entry,) = place([("a", 16_000 * 61, None)], max_samples=16_000 * 60)
    assert entry.num_frames == 0 and entry.num_rows(WAV2VEC2) == 0
    assert entry.problem == f"too long: 61 s, the limit is 60 s {advice}"
    (entry,) = place([("a", 16_000 * 61, None)], max_samples=16_000 * 60, pack_frames=2048)
    assert entry.problem == f"too long: 61 s, a pack holds 41 s {advice}"


def test_the_teachers_limits() -> None:
    """The shortest and the longest utterance that Whisper's 30 seconds take, and what is said of the others."""
    whisper = FRAMINGS["whisper, short"][0]
    seconds = [200 / 16_000, 201 / 16_000, 30, 30 + 1 / 16_000, 41, 61]
    lengths = [(str(n), round(n * 16_000), None) for n in seconds]
    entries = place(lengths, max_samples=60 * 16_000, framing=whisper)
    assert [entry.num_frames for entry in entries] == [0, 1, 1500, 0, 0, 0]
    advice = "s, this teacher takes 30 s (manifest build --split-seconds 30 cuts it)"
    too_long = [f"too long: {n} {advice}" for n in ("30.1", "41", "61")]
    short = "too short: 200 samples at 16 kHz, one frame needs 201"
    assert [entry.problem for entry in entries] == [short, None, None, *too_long]
    # A smaller limit of the extraction's own is the one that counts.
    (entry,) = place([("a", 41 * 16_000, None)], max_samples=20 * 16_000, framing=whisper)
    assert entry.problem == "too long: 41 s, the limit is 20 s (manifest build --split-seconds cuts it)"
    (entry,) = place([("a", 41 * 16_000, None)], max_samples=30 * 16_000, framing=whisper)
    assert entry.problem == too_long[1]


def test_a_label_may_not_hide_a_column_of_the_index() -> None:
    entries = place([("a", 16_000, None)], 10**6)
    with pytest.raises(ManifestError, match="`pack`"):
        to_table(entries, pa.table({"speaker": ["anna"], "pack": ["red"]}))
    assert to_table(entries, pa.table({"speaker": ["anna"]})).to_pylist()[0]["speaker"] == "anna"
