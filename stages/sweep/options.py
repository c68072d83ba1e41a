"""What one call of `gdist sweep` is asked to do, and what it has done."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gdist.pipeline.errors import UsageError
from gdist.pipeline.storage.locations import folder_of, scheme_of
from gdist.stages.sweep.jobs import Job, run_jobs

Runner = Callable[[Iterable[Job], int, int, list[int], Callable[[Job, int], bool], Callable[[list[Job]], None]], bool]
"""As :func:`run_jobs`"""


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
        cluster: where the jobs run, as of ``gdist extract``; None is this machine.
        run: what runs them.
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
    cluster: str | None = None
    run: Runner = run_jobs

    def placed(self) -> "SweepConfig":
        """The same with paths that mean the same on every machine, where workers are to use them.

        Raises:
            UsageError: ``--cluster`` is invalid, or does not go with ``--jobs`` or a cache in memory.
        """
        if self.cluster is None:
            return self
        from gdist.pipeline.cluster.workers import check_spec  # Dask takes a second to import

        check_spec(self.cluster)
        if self.jobs > 1:
            raise UsageError(f"--jobs {self.jobs} does not go with --cluster: each worker does one job at a time")
        for uri in self.caches.values():
            if scheme_of(uri) == "memory":
                raise UsageError(f"--cache {uri}: no other process can see this memory", "use a folder or a bucket")
        caches = {name: str(folder_of(uri)) if scheme_of(uri) == "file" else uri for name, uri in self.caches.items()}
        return replace(self, file=self.file.absolute(), out=self.out.absolute(), caches=caches)


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
