"""What one call of `gdist sweep` is asked to do, and what it has done."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gdist.pipeline.errors import UsageError


@dataclass(frozen=True)
class SweepConfig:
    """What one call of ``gdist sweep`` is asked to do.

    Attributes:
        caches: name → URI; the default one has the name "".
        jobs: processes at a time.
        only: a regular expression; other points are left out.
        first: only the first point, in this process.
        retry_failed: begin failed points again.
        fail_fast: begin nothing more once a point has failed.
        budget: seconds; nothing begins that would end later.
        together: points that are trained from one stream of batches, at most.
        passed: options that are passed to every command, such as ``--use`` and ``--local``.
    """

    file: Path
    out: Path
    caches: dict[str, str]
    jobs: int = 1
    only: str | None = None
    first: bool = False
    retry_failed: bool = False
    fail_fast: bool = False
    dry_run: bool = False
    budget: float | None = None
    passed: list[str] = field(default_factory=list)
    together: int = 1


@dataclass
class Tally:
    """What this call did. ``ran``: trained or resumed, to the end."""

    ran: set[str] = field(default_factory=set)
    failed_now: set[str] = field(default_factory=set)


def named_caches(given: Sequence[str]) -> dict[str, str]:
    """``[NAME=]URI`` … → name → URI; the first one without a name is the default, and so is a single one.

    Raises:
        UsageError: two have the same name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, uri = text.partition("=")
        named = bool(equals) and name.isidentifier()
        key = name if named else ""
        if key in found:
            raise UsageError(
                f"--cache {text}: there is already one {f'called {name}' if named else 'without a name'}"
            )
        found[key] = uri if named else text
    if len(found) == 1:
        found[""] = next(iter(found.values()))
    return found
