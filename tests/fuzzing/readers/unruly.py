"""A reader that does everything wrong, to see that the campaign notices. It is in no table."""

import os
import time
from pathlib import Path
from random import Random

from gdist.pipeline.errors import GdistError

DEEDS = ("read", "refuse", "raise", "crash", "hang", "memory")


class Unruly:
    def __init__(self, folder: Path) -> None:
        self.number = 0

    def make(self, random: Random) -> bytes:
        return random.choice(DEEDS).encode()

    def read(self, data: bytes) -> None:
        match data.decode():
            case "refuse":
                raise GdistError("it is refused")
            case "raise":
                raise KeyError("nobody catches this")
            case "crash":
                os.abort()
            case "hang":
                time.sleep(60)
            case "memory":
                bytearray(100_000_000)
