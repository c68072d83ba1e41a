"""docs/schemas says of each document what the code checks, and what gdist writes is as they say."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from formats import VERSIONS, unpack
from schemas import DOCUMENTS, FOLDER, text_of


@pytest.mark.parametrize("name", DOCUMENTS)
def test_they_are_up_to_date(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == text_of(name), "make schemas"


def test_there_are_no_others() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == DOCUMENTS.keys()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What gdist wrote."""
    return unpack(VERSIONS[-1], tmp_path_factory.mktemp("written"))


@pytest.mark.parametrize(
    ("name", "pattern", "lacking"),
    [
        ("cache-root", "cache-int8/zarr.json", "packs"),
        ("cache-receipt", "cache-fp16/receipts/*.json", "checksum"),
        ("cache-summary", "cache-fp16/summaries/*.json", "checksum"),
        ("run", "run/run.json", "cache_checksum"),
        ("evaluation", "run/evaluations/*.json", "layers"),
        ("metrics-row", "run/metrics.jsonl", "step"),
        ("export", "export/gdist-export.json", "files"),
    ],
)
def test_what_is_written_is_valid(written: Path, name: str, pattern: str, lacking: str) -> None:
    schema = json.loads((FOLDER / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    paths = sorted(written.glob(pattern))
    assert paths
    for path in paths:
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for text in texts:
            document: dict[str, Any] = json.loads(text)
            document = document["attributes"]["gdist"] if name == "cache-root" else document
            jsonschema.validate(document, schema)
            del document[lacking]
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(document, schema)
