"""What a recording may be at most. A file that says that it is more is quarantined, with the figure.

Each limit is far beyond recordings of speech; together they bound what a file of a few kilobytes can ask for. An
utterance takes 2 bytes of memory for each of its samples at 16 kHz, and while it is decoded, one block of
``BLOCK_VALUES`` numbers and one of the resampling filter's input (``RESAMPLED``), whatever its header claims.
"""

from gdist.pipeline.errors import AudioError

SAMPLE_RATES = (1_000, 1_000_000)  # Hz: of telephones 8,000; of recorders of ultrasound 500,000
MAX_CHANNELS = 64  # the largest arrays of microphones, and ambisonics of the seventh order
MAX_SECONDS = 4 * 3600  # of one utterance: 461 MB at 16 kHz; files may be longer
MAX_HELD = 1 << 32  # bytes of a file that is held in memory as a whole; a WAV cannot be larger
MAX_CHUNKS = 1_000  # in front of a WAV's or an AIFF's samples
MAX_STREAMS = 10_000  # one after another in a file

BLOCK_VALUES = 1 << 18  # samples decoded at a time, of all channels together
RESAMPLED = 1 << 21  # samples resampled at a time, or ten seconds if that is less
MAX_FILTER = 1 << 24  # values in a resampling filter; rates without a common factor need one phase per sample


def require_possible(sample_rate: int, channels: int, name: str) -> None:
    """Raise AudioError for what no recording has."""
    low, high = SAMPLE_RATES
    if not low <= sample_rate <= high:
        raise AudioError(f"has {sample_rate:,} Hz; gdist reads {low:,} to {high:,} Hz: {name}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"has {channels} channels; gdist reads at most {MAX_CHANNELS}: {name}")


def too_long(num_samples: int, sample_rate: int) -> str | None:
    """Why an utterance of this length cannot be decoded; None where it can."""
    if num_samples <= MAX_SECONDS * sample_rate:
        return None
    hours = f"{num_samples / sample_rate / 3600:,.1f} h long, and an utterance may have {MAX_SECONDS // 3600} h"
    return f"{hours}: cut it (gdist manifest build --split-seconds 20)"


def require_held(size: int, name: str) -> None:
    """Raise AudioError for a file that is too large to be held in memory."""
    if size > MAX_HELD:
        raise AudioError(
            f"has {size / 1e9:.1f} GB, and must be read as a whole, for which {MAX_HELD / 1e9:.1f} GB "
            f"are the most: {name}"
        )
