"""Models of the Hugging Face Hub: a server of this machine plays it, since there is none to ask in CI."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import make_teacher

from gdist.stages.teachers import load_teacher

# One process asks for all, since every start costs seconds. {name: fingerprint, or [message, hint]}
ASK = """
import json, sys, urllib.request
from gdist.pipeline.errors import TeacherError
from gdist.stages.teachers import load_teacher

def ask(name):
    try:
        return load_teacher(name).fingerprint
    except TeacherError as error:
        return [error.message, error.hint]

names, last = json.loads(sys.argv[1]), json.loads(sys.argv[2])
found = {name: ask(name) for name in names}
if last:
    import os, time
    urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/stop").read()
    time.sleep = lambda seconds: None  # between tries
    found |= {f"{name} without a network": ask(name) for name in last}
print(json.dumps(found))
"""
COMMIT = "0123456789012345678901234567890123456789"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the hub has: three revisions of one model, a gated one, and some that lack a part."""
    root = tmp_path_factory.mktemp("hub")
    models = {
        "main": make_teacher(root / "org/plain/main", seed=0),
        "v1": make_teacher(root / "org/plain/v1.0", seed=1),
        "commit": make_teacher(root / "org/plain" / COMMIT, seed=2),
    }
    for name in ("gated", "broken", "halved"):
        shutil.copytree(models["main"], root / "org" / name / "main")
    (root / "org/gated/GATED").touch()
    (root / "org/broken/BROKEN").touch()
    (root / "org/halved/main/model.safetensors").unlink()
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (root / "org/halved/main/model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    (root / "org/bare/main").mkdir(parents=True)
    (root / "org/flax/main").mkdir(parents=True)
    shutil.copy(models["main"] / "config.json", root / "org/flax/main")
    (root / "org/flax/main/flax_model.msgpack").write_bytes(b"x")
    return models | {"root": root}


def asked(env: dict[str, str], names: list[str], last: tuple[str, ...] = ()) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(names), json.dumps(last)],
        env={**os.environ, "HF_HUB_DISABLE_XET": "1", **env},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def answers(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each name gave: with a hub, then without a network, then offline."""
    folder = tmp_path_factory.mktemp("at@home")
    own = make_teacher(folder / "own@v1", seed=3)
    hub = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "hub.py"), str(folders["root"])],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert hub.stdout is not None
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.stdout.readline().strip()}", "HF_HOME": str(folder / "hf")}
        env["HF_TOKEN_PATH"] = str(folder / "none")
        names = [
            "plain",
            "plain@v1.0",
            f"plain@{COMMIT}",
            "plain@v9",
            "gated",
            "broken",
            "halved",
            "bare",
            "flax",
            "no",
        ]
        found = asked(env, [*(f"org/{name}" for name in names), str(own)], ("org/plain", "org/other"))
        offline = asked(env | {"HF_HUB_OFFLINE": "1"}, ["org/plain", "org/plain@v1.0", "org/other", "org/plain@v7"])
    finally:
        hub.kill()
        hub.wait()
    return found | {f"{name} offline": answer for name, answer in offline.items()} | {"own": found[str(own)]}


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("org/plain", "main"),
        ("org/plain@v1.0", "v1"),
        (f"org/plain@{COMMIT}", "commit"),
        ("org/plain without a network", "main"),
        ("org/plain offline", "main"),
        ("org/plain@v1.0 offline", "v1"),
    ],
)
def test_a_model_and_its_revisions(
    answers: dict[str, Any], folders: dict[str, Path], name: str, revision: str
) -> None:
    assert answers[name] == load_teacher(str(folders[revision])).fingerprint


def test_a_folder_with_an_at_in_its_name_is_a_folder(answers: dict[str, Any]) -> None:
    assert isinstance(answers["own"], str)


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("org/plain@v9", "has no revision v9: no such branch, tag or commit", "leave @v9 out"),
        ("org/gated", "is gated:", "`hf auth login`"),
        ("org/broken", "config.json of org/broken could not be downloaded", "check the network"),
        ("org/halved", "names 2 files, and 2 of them are missing: model-00001-of-00002", "download the rest"),
        ("org/bare", "has no config.json", "convert the weights"),
        ("org/flax", "flax_model.msgpack is weights of TensorFlow or Flax", "from_flax=True"),
        ("org/no", "has no such model, or shows it to its owners only", "check the spelling"),
        ("org/other without a network", "could not be reached", "check the network and HF_ENDPOINT"),
        ("org/other offline", "HF_HUB_OFFLINE forbids", "hf download org/other --local-dir"),
        ("org/plain@v7 offline", "HF_HUB_OFFLINE forbids", "hf download org/plain --revision v7"),
    ],
)
def test_what_the_hub_does_not_give_is_refused_with_the_reason(
    answers: dict[str, Any], name: str, says: str, hint: str
) -> None:
    message, advice = answers[name]
    assert says in message and hint in advice
    assert "adapter_config.json" not in message, "the file that is looked for first is no reason"
