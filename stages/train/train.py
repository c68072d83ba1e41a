"""Stage two: a student learns the cached hidden states. It needs only the cache: no teacher, no audio files.

A step depends only on the config, the cache, the weights and its own number: every random draw is seeded by
(seed, step), and the loader's order by (seed, epoch). That is why a run that was killed and resumed ends with exactly
the same weights. One that shares its stream of batches with other students does so, too.

Axes: B batch, K predicted layers, L teacher layers, T frames, D features, S samples.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.framing import Framing
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import Splits, choose_splits, usable_entries
from gdist.pipeline.local.folder import LocalFolder
from gdist.pipeline.run import Run
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.device import enough_memory
from gdist.stages.train.caches import open_caches
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.member import Member, Request, going
from gdist.stages.train.meter import Line, paid_by
from gdist.stages.train.ranks import join
from gdist.stages.train.repeatable import repeatable
from gdist.stages.train.stopping import Asked, finish_step
from gdist.stages.train.stream import Parts, Stream, union
from gdist.stages.train.validation import Validation


def train(
    uri: str | Sequence[str],
    out: Path,
    config: TrainConfig,
    show_progress: bool = True,
    local: LocalFolder | None = None,
    until: int | None = None,
    start_from: Path | None = None,
) -> dict[str, Any] | None:
    """Train a student from the cache at ``uri`` into the folder ``out``, or continue where an earlier run stopped.

    Under `torchrun` each rank calls this, and they train one student together.

    Args:
        uri: of one cache, or what is typed after each ``--cache`` of several.
        local: where the shards of a cache in a bucket are kept, once they are fetched.
        until: pause after this step, with a validation and a checkpoint; a later call goes on from there, to the same
            student as if it had never paused.
        start_from: begin with the weights of this student: a run, ``RUN@STEP`` or an export. It is part of what the
            run is, so a later call names it again.

    Returns:
        the fields of ``gdist train --json`` (see docs/reference/json.md); None on every rank except the first.

    Raises:
        CacheError: the cache cannot be used for this student.
        RunError: the folder or a checkpoint in it cannot be used, or the loss is not finite.
        ConfigError: the config is impossible.
        DeviceMemoryError: a batch does not fit into memory. In all cases, what is already written is kept.
    """
    with join(config.train.device, config.train.peer_timeout) as ranks:
        member = Member(Request(out, config, until, start_from), ranks)
        train_members(uri, [member], show_progress, local)
        return member.result


def train_members(
    uri: str | Sequence[str], members: Sequence[Member], show_progress: bool = True, local: LocalFolder | None = None
) -> None:
    """Train students whose stream keys are equal from one stream of batches, each to its result or its failure."""
    first, ranks = members[0], members[0].ranks
    optim, data = first.config.train, first.config.data
    with contextlib.ExitStack() as stack:
        stack.enter_context(repeatable(optim.deterministic, ranks.device))
        for member in members:
            stack.callback(member.close)
        with ranks.together():
            caches = open_caches(first.run, uri, local)

            @functools.cache
            def splits(*layers: int) -> Splits:
                found = choose_splits(usable_entries(caches, data.skip_missing, layers), data)
                if ranks.first:
                    found.warn()
                return found

            for member in members:
                with member.attempt():
                    member.build(caches)
                    member.splits = splits(*member.layers)
        for stage in (Member.claim, Member.require_same):
            with ranks.together():
                for member in going(members):
                    with member.attempt():
                        stage(member, caches)
        if not (some := going(members)):
            return
        stream = Stream(members)
        read = functools.partial(
            Loader,
            caches,
            choose=stream.choose,
            batch_seconds=optim.batch_seconds,
            rank=ranks.rank,
            world=ranks.world,
            device=str(ranks.device),
            skip_damaged=data.skip_damaged,
            layers=sorted({layer for member in some for layer in member.layers}),
        )
        loader = read(
            some[0].splits["train"],
            crop_seconds=data.crop_seconds,
            seed=first.config.order_seed,
            audio_on_cpu=any(member.config.augment.enabled for member in some),  # it is augmented there
        )

        @functools.cache
        def held_out(seconds: float) -> Loader:
            return read(at_most(some[0].splits["valid"], seconds, caches.framing))

        for member in some:
            with member.attempt():
                member.resume(loader)
        line = Line(caches.traffic)
        with enough_memory(first.doing, ranks.device, first.config.smaller):
            _steps(stream, loader, held_out, line, show_progress)


def _steps(
    stream: Stream, loader: Loader, held_out: Callable[[float], Loader], line: Line, show_progress: bool
) -> None:
    """Run the remaining steps of all members, with their reports, validations and checkpoints."""
    members = stream.members
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(finish_step())
        title = f"train {members[0].run.name}" if len(members) == 1 else f"train {len(members)} students"
        steps, taken = (sum(each) for each in zip(*((m.optim.steps, m.step) for m in members), strict=True))
        bar = console.progress(title, steps, "steps", start=taken, enabled=show_progress)
        advance = stack.enter_context(bar)
        stack.enter_context(_kept_when_asked(members))
        alone = members[0].ranks.world == 1  # the ranks of several stop after the same step
        held = stopping.waiting if alone else contextlib.nullcontext
        with held():
            _validate([member for member in going(members) if member.owes_validation], held_out, line)
        _end(members)  # also those that had taken their last step, and owed its validation
        batches: Iterator[Parts] = stack.enter_context(contextlib.closing(stream.batches(loader)))
        awaited = stopping.awaited(batches) if alone else batches
        for parts in paid_by(lambda: [member.meter for member in stream.next_takers], awaited):
            line.divide([member.meter for member, _ in parts])
            due = [member for member, batch in parts if member.going and member.take(batch)]
            # On a GPU, the gradients of all are on their way before any of them is waited for.
            for member in due:
                with member.attempt("step"):
                    member.begin(stopping)
            for member in going(due):
                with member.attempt("step"):
                    member.finish()
            due = going(due)
            advance(len(due), ";  ".join(str(member.meter) for member in due))
            for member in due:
                with member.attempt():
                    member.report_steps()
            if validating := [member for member in due if member.validates]:
                with held():
                    _validate(validating, held_out, line)
            for member in going(due):
                with member.attempt():
                    if member.checkpoints:
                        member.save()
            _end(members)
            if any(member.stop for member in members) and (left := going(members)):
                _pause(left)
                raise KeyboardInterrupt


@contextlib.contextmanager
def _kept_when_asked(members: Sequence[Member]) -> Iterator[None]:
    """Keep the last whole step, where something was ended at once."""
    try:
        yield
    except Asked:
        _pause(going(members))
        raise


def _pause(members: Sequence[Member]) -> None:
    for member in members:
        with member.attempt():
            member.pause()


def _end(members: Sequence[Member]) -> None:
    """Let those go that have come to their end, or have failed."""
    for member in going(members):
        if member.step >= member.end:
            with member.attempt():
                member.complete()
    for member in members:
        if not member.going:
            member.close()


def _validate(members: Sequence[Member], held_out: Callable[[float], Loader], line: Line) -> None:
    """Validate members: of those with the same held-out utterances, each batch is read once for all."""
    for seconds in sorted({member.optim.validate_seconds for member in members}):
        validations: dict[Member, Validation] = {}
        for member in members:
            if member.going and member.optim.validate_seconds == seconds:
                with member.attempt():
                    validations[member] = Validation(member.learner)
        if not validations:
            continue
        meters = [member.meter for member in validations]
        selection = union(validation.selection for validation in validations.values())
        for batch in paid_by(functools.partial(list, meters), held_out(seconds).once(selection), "other"):
            for member in going(validations):
                with member.attempt():
                    validations[member].add(batch)
        line.divide(meters)
        for member in going(validations):
            with member.attempt():
                seen = member.splits.also_trained_on.get("valid")
                member.report("valid", validations[member].means() | ({"also_trained_on": seen} if seen else {}))


def at_most(entries: Sequence[Entry], seconds: float, framing: Framing) -> list[Entry]:
    """The first utterances whose audio adds up to at most ``seconds``; at least one."""
    ends = itertools.accumulate(entry.num_frames / framing.frames_per_second for entry in entries)
    return [
        entry for place, (entry, end) in enumerate(zip(entries, ends, strict=True)) if place == 0 or end <= seconds
    ]


def show(out: Path, result: dict[str, Any]) -> None:
    """Print the result for people."""
    figures = "whose figures are lost"
    if result["loss"] is not None:
        speed = f"{result['step_seconds']:.2f} s per step, {result['audio_seconds_per_second']:.0f}× real time"
        figures = f"loss {result['loss']:.3f}; {speed}, waiting for data {result['data_wait_fraction']:.1%}"
    console.say(f"{out}: {result['steps']} steps, {figures}", style="green")
    run = Run(out)
    if not run.is_finished:
        console.say(f"  paused after step {result['steps']}; run it again without --until to finish")
        return
    console.say(f"  next: gdist eval {in_shell(out)}{run.use_options}")
