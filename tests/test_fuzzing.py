"""A few hostile inputs for every reader, and those that were found earlier; `make fuzz` gives each thousands."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from fuzzing import Reader, artefacts
from fuzzing.campaign import PATIENCE, campaign, input_of, outcome_of
from fuzzing.readers import READERS, reader_class

INPUTS = 40
FOUND = Path(__file__).parent / "fuzzing" / "found"
KEPT = sorted(path for path in FOUND.glob("*/*") if path.is_file())


@pytest.fixture(scope="module")
def reader_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Reader]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(artefacts.HOME, str(tmp_path_factory.mktemp("artefacts")))
        for name, value in PATIENCE.items():
            patch.setenv(name, value)
        yield cache(lambda name: reader_class(name)(tmp_path_factory.mktemp("reader")))


@pytest.mark.parametrize("name", READERS)
def test_it_reads_or_refuses(reader_of: Callable[[str], Reader], name: str) -> None:
    reader = reader_of(name)
    inputs = [input_of(reader, name, 1, number) for number in range(INPUTS)]
    assert len(set(inputs)) > INPUTS / 2
    bad = [
        f"INPUT={number}: {outcome}"
        for number, data in enumerate(inputs)
        if _is_bad(outcome := outcome_of(reader, data))
    ]
    assert not bad


@pytest.mark.parametrize("path", KEPT, ids=[f"{path.parent.name}/{path.name}" for path in KEPT])
def test_what_was_found(reader_of: Callable[[str], Reader], path: Path) -> None:
    assert not _is_bad(outcome_of(reader_of(path.parent.name), path.read_bytes()))


def _is_bad(outcome: str) -> bool:
    return outcome not in ("read", "refused")


def test_the_same_number_is_the_same_input(reader_of: Callable[[str], Reader]) -> None:
    reader = reader_of("root")
    assert input_of(reader, "root", 1, 7) == input_of(reader, "root", 1, 7) != input_of(reader, "root", 2, 7)


def test_the_campaign_notices_everything() -> None:
    # raise, crash, hang, memory, read, refuse
    counts = campaign("unruly:Unruly", 182, 6, patience=1.5)
    assert counts.found[0] == "KeyError in unruly.py:25: 'nobody catches this'"
    assert counts.found[1].startswith("crash: SIGABRT")
    assert counts.found[2] == "hang"
    assert sorted(counts.found) == [0, 1, 2]
    assert (counts.inputs, counts.refused, counts.uncaught, counts.crashes, counts.hangs) == (6, 1, 1, 1, 1)
    assert 95 < counts.megabytes < 130
