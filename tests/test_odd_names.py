"""Names that are hard for a program, at every place where a command takes text: it ends in words."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from test_planted_secrets import here, line_of, places, said, short_settings

__all__ = ["here"]


@pytest.mark.parametrize(("name", "planted"), [*places()], ids=lambda each: each.replace(" ", "-"))
def test_it_ends_in_words(here: Path, monkeypatch: pytest.MonkeyPatch, name: str, planted: str) -> None:
    """A link that leads to itself, a name that is no text, and a file where a folder should be."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # a name may be that of a model, which would be waited for
    (here / "loop").symlink_to("loop")
    (here / "file").write_text("somebody's")
    for value in ("loop", "bad\udcff", "file/inside"):
        code, text = said([*line_of(name, planted, value), *(short_settings() if name == "train" else [])])
        assert code in (0, 1, 2), (value, text)
        assert code == 0 or "error: " in text.lower(), (value, text)
    assert (here / "file").read_text() == "somebody's" and (here / "loop").is_symlink()
