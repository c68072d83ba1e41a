"""The prices of storage, requests and GPUs: a table that ships with gdist, which the user's own table overrides."""

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from gdist.pipeline.config import build, merge, read_toml, require


@dataclass(frozen=True)
class Prices:
    """The [prices] table. prices.toml has the shipped values and explains each of them."""

    currency: str
    storage_gb_month: float
    months: float
    put_1000: float
    get_1000: float
    egress_gb: float
    gpu_hour: float

    def __post_init__(self) -> None:
        for name, price in vars(self).items():
            possible = isinstance(price, str) or (price >= 0 and math.isfinite(price))
            require(possible, f"prices.{name} = {price}: must be 0 or more, and finite")

    def money(self, amount: float) -> str:
        """Format an amount: ``0.04`` → ``$0.04``, ``1234.5`` → ``$1,234``."""
        if 0 < amount < 0.005:
            return f"<{self.currency}0.01"
        return f"{self.currency}{amount:,.2f}" if amount < 100 else f"{self.currency}{amount:,.0f}"


@dataclass(frozen=True)
class _File:
    prices: Prices


def shipped() -> Path:
    """The path of the shipped table, which users copy and edit."""
    return Path(str(files("gdist.stages.estimate"))) / "prices.toml"


def load_prices(path: Path | None) -> Prices:
    """Read the shipped prices, overridden by those of a TOML file.

    Raises:
        ConfigError: an unknown name, with the nearest known one, or an invalid price.
    """
    return build(_File, merge(read_toml(shipped()), read_toml(path) if path else {})).prices
