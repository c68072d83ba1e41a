"""The framings of the teachers that there are, each with its frames counted in another way: as its front-end does."""

from collections.abc import Callable

from gdist.pipeline.framing import WAV2VEC2, Framing

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # wav2vec 2.0, HuBERT and WavLM alike


def convolved(samples: int) -> int:
    """The length after each of wav2vec 2.0's convolutions in turn, as torch computes it."""
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        samples = max((samples - kernel) // stride + 1, 0)
    return samples


def whisper(samples: int) -> int:
    """Every second mel frame, of which there is one for each whole 160 samples."""
    return (samples // 160 + 1) // 2


FRAMINGS: dict[str, tuple[Framing, Callable[[int], int]]] = {
    "wav2vec 2.0": (WAV2VEC2, convolved),
    "whisper": (Framing(320, 1040, 520, 360, longest=480_000), whisper),
    # The end of an utterance is mirrored, for which there must be more than 200 samples.
    "whisper, short": (Framing(320, 1040, 520, 360, 201, 480_000), lambda n: whisper(n) if n > 200 else 0),
    "sew": (Framing(640, 720), lambda n: convolved(n) // 2),  # mean of two
    "w2v-bert": (Framing(320, 560), lambda n: max((n - 400) // 160 + 1, 0) // 2),  # two of 10 ms, side by side
}
