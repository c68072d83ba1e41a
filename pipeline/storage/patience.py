"""How long to wait for a store, and how often to ask it again: GDIST_STORE_TIMEOUT and AWS_MAX_ATTEMPTS."""

import os
import random
from dataclasses import dataclass

from gdist.pipeline.errors import UsageError

SLOWEST_UPLOAD = 256 * 1024  # bytes per second of one upload; the first try of a slower one is given up
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 20.0


@dataclass(frozen=True)
class Patience:
    """How long to wait, and how often to try.

    Attributes:
        silence: seconds without an answer before a request counts as lost.
        tries: how often one request is sent at most, the first time included.
    """

    silence: float = 60.0
    tries: int = 10

    @classmethod
    def from_environment(cls) -> "Patience":
        """Read the limits; UsageError where they are no numbers."""
        return cls(_number("GDIST_STORE_TIMEOUT", cls.silence, 0.1), int(_number("AWS_MAX_ATTEMPTS", cls.tries, 1)))

    @property
    def in_all(self) -> float:
        """Seconds after which a request that keeps failing is no longer retried."""
        return 5 * self.silence

    @property
    def at_first(self) -> float:
        """The same for a server that has never answered: most likely its address is wrong."""
        return self.silence / 2

    def for_upload(self, size: int, tries: int) -> float:
        """Seconds an upload of ``size`` bytes may take on its n-th try, counted from 0; the part for its size doubles
        with every try."""
        rounded = 1 << max(size - 1, 1).bit_length()  # few different limits: each needs its own connections
        return self.silence + (rounded << tries) / SLOWEST_UPLOAD

    def pause(self, tries: int) -> float:
        """Seconds to wait after the n-th try, counted from 1; at random, so that many clients do not return at
        once."""
        longest: float = min(FIRST_BACKOFF * 2 ** (tries - 1), LONGEST_BACKOFF)
        return longest * random.uniform(0.5, 1)


def _number(name: str, default: float, least: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        if least <= float(text) < 1e6:
            return float(text)
    except ValueError:
        pass
    raise UsageError(
        f"{name}={text}: must be a number, {least:g} or more", f"unset {name}, or export {name}={default:g}"
    )
