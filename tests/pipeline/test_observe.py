"""What programs see of a command: lines of JSON, and numbers over HTTP."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import free_port
from test_train import SHORT

from gdist.pipeline import console, observe
from gdist.pipeline.errors import UsageError

Gdist = Callable[..., Result]
FLAGS = [part for name, value in (SHORT | {"train.log_every": 1}).items() for part in ("--set", f"{name}={value}")]


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_is_json(tiny_cache: Path, tmp_path: Path, gdist: Gdist, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", 0.0)
    result = gdist("--log-json", "train", "--cache", tiny_cache, "--out", tmp_path / "run", *FLAGS, "--json")
    plain = gdist("train", "--cache", tiny_cache, "--out", tmp_path / "plain", *FLAGS)
    assert result.exit_code == 0 and json.loads(result.stdout)["steps"] == SHORT["train.steps"]
    lines = lines_of(result.stderr)
    assert not lines or all({"time", "level", "message"} <= line.keys() for line in lines)
    again = gdist("--log-json", "train", "--cache", tiny_cache, "--out", tmp_path / "again", *FLAGS)
    lines = lines_of(again.stderr)
    steps = [line for line in lines if line.get("unit") == "steps"]
    assert steps[-1]["done"] == steps[-1]["total"] == SHORT["train.steps"] and steps[-1]["level"] == "info"
    assert all(datetime.fromisoformat(line["time"]).tzinfo is not None for line in lines)
    assert not plain.stderr.startswith("{")
    last = lines[-1]["message"]
    assert last.startswith("next: gdist eval") and last.replace("again", "plain") in plain.stderr


def test_errors_and_their_hints(tmp_path: Path, gdist: Gdist) -> None:
    result = gdist("--log-json", "train", "--cache", tmp_path / "none", "--out", tmp_path / "run")
    (line,) = lines_of(result.stderr)
    assert result.exit_code == 1 and line["level"] == "error"
    assert (line["message"].startswith("error: cannot open ") and "hint" not in line) or line["hint"]
    hostile = gdist("--log-json", "eval", tmp_path / "no\x1b[31m run")
    assert "\x1b" not in hostile.stderr and lines_of(hostile.stderr)[0]["hint"].startswith("gdist train")


def test_the_environment_and_a_terminal(tmp_path: Path) -> None:
    program = "from gdist.stages.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "eval", tmp_path / "none"],
        env=os.environ | {"GDIST_LOG_JSON": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and lines_of(done.stderr)[0]["level"] == "error"


SIGNED = "https://host/x?X-Amz-Signature=abc"


def test_quotes_around_a_secret_stay_json(capfd: pytest.CaptureFixture[str]) -> None:
    """A location in quotes at the end of a text, or before a backslash: what is removed is never a part of JSON."""
    texts = [f'cannot open "{SIGNED}"', f"{SIGNED}\\", f'"s3://key:secret@bucket"\n"{SIGNED}"']
    with observe.json_lines():
        for text in texts:
            console.say(text, hint=text)
    console.emit({"found": texts, f'"{SIGNED}"': [{"at": texts[0]}]})
    said = capfd.readouterr()
    assert [line["message"] for line in lines_of(said.err)] == [line["hint"] for line in lines_of(said.err)]
    assert lines_of(said.err)[0]["message"] == 'cannot open "https://host/x?X-Amz-Signature=…"'
    (printed,) = lines_of(said.out)
    assert printed["found"][0] == lines_of(said.err)[0]["message"] and len(printed) == 2
    assert not any(secret in said.err + said.out for secret in ("abc", "secret"))


WARNED = f"""
import logging, warnings
from gdist.pipeline import observe
with observe.json_lines():
    logging.getLogger("other.library").warning("slow: %s", "{SIGNED}")
    warnings.warn("old")
logging.getLogger("other.library").warning("in words again")
"""


def test_warnings_of_others() -> None:
    """In a process of its own: pytest sets logging up."""
    done = subprocess.run([sys.executable, "-c", WARNED], capture_output=True, text=True, check=True)
    first, second, third = done.stderr.splitlines()
    assert json.loads(first) | {"time": ""} == {
        "time": "",
        "level": "warning",
        "logger": "other.library",
        "message": "slow: https://host/x?X-Amz-Signature=…",
    }
    assert json.loads(second)["logger"] == "py.warnings" and "old" in json.loads(second)["message"]
    assert third == "in words again"


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_numbers_of_a_training(
    tiny_cache: Path, tmp_path: Path, gdist: Gdist, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, seen = free_port(), []
    original = observe.measured

    def looked(*given: Any) -> None:
        original(*given)
        seen.append(scraped(port))

    monkeypatch.setattr("gdist.stages.train.member.measured", looked)
    result = gdist(
        "--metrics", str(port), "train", "--cache", tiny_cache, "--out", tmp_path / "run", *FLAGS, "--json"
    )
    assert result.exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len(seen)
    for row, numbers in zip(rows, seen, strict=True):
        loss = f'gdist_training{{kind="{row["kind"]}",name="loss",run="run"}}'
        assert numbers[loss] == row["loss"] and numbers["process_resident_memory_bytes"] > 1e6
    done = 'gdist_done{title="train run",unit="steps"}'
    assert [numbers[done] for numbers in seen] == sorted(numbers[done] for numbers in seen)
    assert seen[-1][done] == seen[-1][done.replace("done", "total", 1)] == SHORT["train.steps"]
    with pytest.raises(OSError):
        scraped(port)  # it is served for as long as the command runs
    assert not [thread for thread in threading.enumerate() if "serve_forever" in thread.name]


@pytest.mark.parametrize("address", ["", "x", "0", "99999", "host:", "http://host:1", "127.0.0.1:80:80", "1\n"])
def test_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="is no address"), observe.metrics(address):
        pass


def test_a_port_that_is_taken(gdist: Gdist, tmp_path: Path) -> None:
    port = free_port()
    with observe.metrics(str(port)):
        result = gdist("--metrics", str(port), "eval", tmp_path)
    assert result.exit_code == 2 and "choose another port" in result.stderr


def test_without_a_host_it_is_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import prometheus_client

    asked: list[str] = []
    original = prometheus_client.start_http_server

    def start(port: int, host: str, registry: Any) -> Any:
        asked.append(host)
        return original(port, host, registry)

    monkeypatch.setattr(prometheus_client, "start_http_server", start)
    for given in ("{}", "localhost:{}", ":{}"):
        with observe.metrics(given.format(free_port())):
            pass
    assert asked == ["127.0.0.1", "localhost", "0.0.0.0"]
