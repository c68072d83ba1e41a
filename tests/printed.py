"""Checks what a command has printed with ``--json`` against its schema: see gdist.stages.printed."""

import functools
import json

import jsonschema
from schemas import DOCUMENTS, schema_of


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema_of(name))


def require(arguments: list[str], stdout: str) -> None:
    """Raise an AssertionError if this is not what the command prints, by its schema."""
    words = [word for word in arguments if not word.startswith("-")]
    # Before the command may be a value of an option of gdist's own, such as that of --metrics.
    choices = (f"printed-{'-'.join(words[at : at + length])}" for at in range(len(words)) for length in (2, 1))
    name = next((choice for choice in choices if choice in DOCUMENTS), None)
    assert name, f"what `gdist {' '.join(words[:2])} --json` prints has no type in gdist.stages.printed"
    try:
        _validator(name).validate(json.loads(stdout))
    except jsonschema.ValidationError as error:
        deepest = jsonschema.exceptions.best_match([error])
        raise AssertionError(f"{name}: {deepest.json_path}: {deepest.message:.600}") from None
