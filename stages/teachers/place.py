"""Where a checkpoint is: in a folder of this machine, or on the Hugging Face Hub, at a revision if one is named.

Whatever keeps a file from being read is refused with its own reason: no network is not "not found", and a gated model
is not a missing one.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from gdist.pipeline.console import size
from gdist.pipeline.errors import AGAIN, TeacherError
from gdist.pipeline.files import reason, regular
from gdist.pipeline.storage.credentials import require_endpoint

# In the order in which transformers looks for them; each may have an index instead, of the parts it is in.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_FOLDER = "give a folder that contains config.json and the weights"
_LFS = b"version https://git-lfs.github.com/spec/"
_WEB_PAGES = (b"<!doctype html", b"<html", b"<?xml")


@dataclass(frozen=True)
class Folder:
    """A folder of this machine; nothing is downloaded.

    Attributes:
        name: as it was given.
    """

    name: str
    path: Path

    def file(self, filename: str) -> Path | None:
        """The file's path, or None if the folder has no such file.

        Raises:
            TeacherError: there is something else in its place, such as a git-lfs pointer; or it cannot be read.
        """
        try:
            return whole(self.path / filename, self.name)
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class HubModel:
    """A model on the Hub.

    Attributes:
        name: as it was given, ``id`` or ``id@revision``.
        revision: a branch, a tag or a commit; None for main.
    """

    name: str
    repo: str
    revision: str | None

    def file(self, filename: str) -> Path | None:
        """The path of the file in the Hub's local cache, downloaded if need be; None if the model has no such file.

        Raises:
            TeacherError: the Hub does not give it, or cannot be asked.
        """
        # The first file that is asked for, config.json, finds out which commit is meant. What that commit is known to
        # lack is not asked for again: without a network, each such file would cost half a minute.
        if filename != "config.json" and self._kept(filename) is False:
            return None
        try:
            path = hf_hub_download(self.repo, filename, revision=self.revision)
        except LocalEntryNotFoundError as error:
            if isinstance(error.__cause__, HfHubHTTPError):  # it was asked, and did not answer
                raise self._refused(error.__cause__, filename) from error
            # Weights come last: of a model that was fetched with them, what is not here was not there.
            names = (name for weights in WEIGHTS for name in (weights, f"{weights}.index.json"))
            if any(self._kept(name) for name in names):
                return None
            raise self._unasked(error) from error
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise self._refused(error, filename) from error
        except Exception as error:  # of the client's HTTP library, which has changed: a connection that was cut
            kept = try_to_load_from_cache(self.repo, filename, revision=self.revision)
            if not isinstance(kept, str):
                raise self._refused(error, filename) from error
            path = kept
        return whole(Path(path), self.name)

    def _kept(self, filename: str) -> bool | None:
        """Whether the local cache has the file; False if it knows that there is none, None if it knows nothing."""
        found = try_to_load_from_cache(self.repo, filename, revision=self.revision)
        return None if found is None else isinstance(found, str)

    def _unasked(self, error: Exception) -> TeacherError:
        revision = f" --revision {self.revision}" if self.revision else ""
        elsewhere = f"where there is a network, `hf download {self.repo}{revision} --local-dir FOLDER`"
        if is_offline_mode():
            return TeacherError(
                f"No teacher {self.name}: there is no such folder here, it was not downloaded before, and "
                "HF_HUB_OFFLINE forbids to ask the Hugging Face Hub for it.",
                f"unset HF_HUB_OFFLINE; or, {elsewhere}, and give that folder",
            )
        cause = first_line(error.__cause__ or error)
        return TeacherError(
            f"No teacher {self.name}: there is no such folder here, and {constants.ENDPOINT} could not be reached, "
            f"so whether it has such a model is not known ({cause}).",
            f"check the network and HF_ENDPOINT; or, {elsewhere}, and give that folder",
        )

    def _refused(self, error: Exception, filename: str) -> TeacherError:
        page = f"{constants.ENDPOINT}/{self.repo}"
        if isinstance(error, GatedRepoError):
            return TeacherError(
                f"{self.name} is gated: {constants.ENDPOINT} gives its files only to accounts that have access.",
                f"ask for access at {page}, log in with `hf auth login` (or set HF_TOKEN), and {AGAIN}",
            )
        if isinstance(error, RepositoryNotFoundError):
            return TeacherError(
                f"No teacher {self.name}: there is no such folder here, and {constants.ENDPOINT} has no such model, "
                "or shows it to its owners only.",
                f"check the spelling, log in with `hf auth login` if the model is private, or {_FOLDER}",
            )
        if isinstance(error, RevisionNotFoundError):
            return TeacherError(
                f"{self.repo} has no revision {self.revision}: no such branch, tag or commit.",
                f"take one of {page}/commits/main, or leave @{self.revision} out",
            )
        if isinstance(error, HFValidationError):
            return TeacherError(
                f"No teacher {self.name}: there is no such folder here, and a model on the Hugging Face Hub cannot "
                "have such a name.",
                f"check the spelling, or {_FOLDER}",
            )
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403):
            return TeacherError(
                f"{constants.ENDPOINT} refused {filename} of {self.name} (HTTP {status}): the token that was sent is "
                "not valid, or may not read this model.",
                f"log in with `hf auth login` again (HF_TOKEN, if set, comes first), and {AGAIN}",
            )
        return TeacherError(
            f"{filename} of {self.name} could not be downloaded from {constants.ENDPOINT}: {first_line(error)}.",
            f"check the network and the disk, and {AGAIN}",
        )


Place = Folder | HubModel


def place_of(name: str) -> Place:
    """The place that a name means: a folder if there is one, even if its name has an @; else a model on the Hub.

    Raises:
        TeacherError: the name is of neither kind.
        UsageError: the Hub would be asked at an address that is none, or has credentials in it.
    """
    if Path(name).is_dir():
        return Folder(name, Path(name))
    if page := re.match(
        r"https?://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+?)(?:/(?:tree|commit)/([^?#]+?))?/?$", name
    ):
        shorter = f"{page[1]}@{page[2]}" if page[2] else page[1]
        raise TeacherError(f"{name} is the page of a model, not its name.", f"give {shorter}")
    if "://" in name:
        raise TeacherError(
            f"{name} is a URI, and a teacher is read from a folder of this machine or from the Hugging Face Hub.",
            "copy it to this machine, and give its folder",
        )
    if name.startswith(("/", "./", "../", "~")):
        raise TeacherError(f"No teacher {name}: there is no such folder here.", f"check the spelling, or {_FOLDER}")
    repo, at, revision = name.partition("@")
    if at and not (repo and revision):
        raise TeacherError(f"No teacher {name}: before or after its @ there is nothing.", "give id@revision, or id")
    require_endpoint("HF_ENDPOINT", constants.ENDPOINT)
    return HubModel(name, repo, revision or None)


def whole(path: Path, name: str) -> Path:
    """``path``, if it is what its name says, as far as its size and its first bytes show it.

    Raises:
        TeacherError: it is empty, a git-lfs pointer, a web page, no file, or cannot be read.
        FileNotFoundError: it is not there, or is a folder.
    """
    try:
        with regular(path) as file:
            start = file.read(512)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise TeacherError(
            f"The checkpoint {name} cannot be loaded: {path.name} cannot be read: {why}.",
            "look at that file and its permissions, or download it again",
        ) from error
    if not start:
        raise TeacherError(
            f"The checkpoint {name} cannot be loaded: {path.name} is empty.",
            "download it again; an interrupted copy leaves such files",
        )
    if start.startswith(_LFS):
        amount = re.search(rb"^size (\d+)$", start, re.MULTILINE)
        told = f" of {size(int(amount[1]))}" if amount else ""
        raise TeacherError(
            f"The checkpoint {name} cannot be loaded: {path.name} is a git-lfs pointer, which stands for a file"
            f"{told} that was not fetched.",
            "in that folder, `git lfs install && git lfs pull`; or `hf download ID --local-dir FOLDER`",
        )
    if start.lstrip().lower().startswith(_WEB_PAGES):
        raise TeacherError(
            f"The checkpoint {name} cannot be loaded: {path.name} is a web page, as a server sends it that wants a "
            "login or has no such file.",
            "open the address that it was downloaded from in a browser, and download the file itself",
        )
    return path


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
