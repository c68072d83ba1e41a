"""What a repair needs beside the cache, and the commands that repair a cache or add to it, as they are typed."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gdist.pipeline.cache.copied import command_of

MANIFEST = "M.parquet"  # stands for the manifest's path, which a cache does not record


@dataclass(frozen=True)
class Needs:
    """Whether the teacher has to run or to give its files again, and whether audio is read from its files again."""

    teacher: bool = False
    manifest: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(self.teacher or other.teacher, self.manifest or other.manifest)


def teacher_of(gdist: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the recorded name of a cache's teacher, and whether it is the last part of a folder's path instead of a
    hub id: full paths are not published."""
    name = str(gdist["about"].get("teacher", ""))  # only recorded, so nothing depends on it
    return name, name != "" and "/" not in name


def repair_command(
    uri: str,
    gdist: Mapping[str, Any],
    needs: Needs,
    teacher: str | None = None,
    manifest: str | None = None,
    more: Sequence[str] = (),
) -> str:
    """Return the command that repairs a cache, quoted for a shell; that of a copy which no teacher can make again
    copies it again.

    Args:
        gdist: the description in its root document.
        teacher, manifest: what the user has already named; else the recorded name of a folder, and ``M.parquet``.
        more: further options that the user typed.
    """
    if (needs.teacher or needs.manifest) and (copying := command_of(uri, gdist)):
        return copying
    words, (name, is_folder) = ["gdist", "verify", uri, "--repair"], teacher_of(gdist)
    if teacher or (needs.teacher and is_folder):
        words += ["--teacher", teacher or name]
    if manifest or needs.manifest:
        words += ["--manifest", manifest or MANIFEST]
    return shlex.join([*words, *more])


def format_command(found: int, known: int) -> str:
    """Return what to type where a cache has another format than this gdist reads: a newer one needs a newer gdist, an
    older one is made again."""
    if found > known:
        return "pip install --upgrade gdist"
    return f"gdist extract --teacher TEACHER --manifest {MANIFEST} --cache NEW makes it again, in this format"


def layers_command(uri: str, gdist: Mapping[str, Any]) -> str | None:
    """Return the command that adds the layers which a cache lacks, quoted for a shell, with ``M.parquet`` for the
    manifest; None for a copy that no teacher can add to.

    Args:
        gdist: the description in its root document.
    """
    if command_of(uri, gdist):
        return None
    identity, (name, _) = gdist["identity"], teacher_of(gdist)
    words = ["gdist", "extract", "--teacher", name, "--manifest", MANIFEST, "--cache", uri, "--layers", "all"]
    for option in ("encoding", "compress", "precision", "max_seconds", "batch_seconds", "pack_frames"):
        words += [f"--{option.replace('_', '-')}", str(identity[option])]
    if window := identity["teacher"].get("window"):
        words += ["--window", str(window)]
    return shlex.join(words + ["--final-norm"] * bool(identity["teacher"].get("final_norm")))
