"""`gdist doctor` as a user calls it: what it prints, its exit codes, and that a check which should fail does."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # which cannot be imported first where a GPU is pretended
from click.testing import Result
from packaging.specifiers import SpecifierSet
from pretend import pretended

from gdist.stages.doctor import gpu, processor, software

Gdist = Callable[..., Result]


def found(result: Result) -> dict[str, Any]:
    """What `--json` prints, by area and name."""
    document = json.loads(result.stdout)
    assert document.keys() == {"ok", "gdist", "checks"}
    for check in document["checks"]:
        assert check.keys() == {"area", "name", "status", "value", "means", "hint"}
        assert check["status"] in ("ok", "note", "problem")
        assert (check["status"] == "ok") == (check["means"] == ""), check
    assert document["ok"] == all(check["status"] != "problem" for check in document["checks"])
    assert result.exit_code == (0 if document["ok"] else 1), result.output
    return {f"{check['area']}: {check['name']}": check for check in document["checks"]}


def test_this_machine_can_do_the_work(gdist: Gdist, tmp_path: Path) -> None:
    """In JSON and in words, and nothing is left in the folder."""
    checks = found(gdist("doctor", tmp_path, "--json"))
    assert checks["packages: torch"]["value"] == metadata.version("torch")
    assert "WAV, FLAC, OGG, MP3" in checks["audio: libsndfile"]["value"]
    for name in ("file system", "free space", "write", "read", "locks"):
        assert checks[f"{tmp_path}: {name}"]["status"] != "problem"
    assert "64.0 MB in" in checks[f"{tmp_path}: write"]["value"]
    assert not list(tmp_path.iterdir())
    words = gdist("doctor", tmp_path, "--read-only")
    assert words.exit_code == 0 and f"torch {metadata.version('torch')}" in " ".join(words.stdout.split())
    for check in checks.values():
        if check["status"] == "note" and check["area"] != str(tmp_path):
            assert check["means"] in words.stdout


def test_no_network_is_used_without_a_uri(tmp_path: Path) -> None:
    """Every connection that Python would make is refused, and the command does not notice."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from gdist.stages.cli import main; main()"
    )
    environment = os.environ | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "GDIST_LOCAL": str(tmp_path / "nvme")}
    command = [sys.executable, "-c", code, "doctor", "--read-only", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    areas = {check["area"] for check in json.loads(done.stdout)["checks"]}
    assert {str(tmp_path), str(tmp_path / "nvme")} <= areas and not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["memory://x", "s3://", "ftp://host/x", "S3://bucket"])
def test_what_is_no_place_is_refused(gdist: Gdist, place: str) -> None:
    assert gdist("doctor", place).exit_code == 2
    assert gdist("doctor", "--local", "s3://bucket/x").exit_code == 2


class TestPackages:
    def test_what_gdist_asks_for_is_what_its_metadata_says(self) -> None:
        named = {package.name: package for package in software.packages()}
        assert named["torch"].extra == "" and named["onnxruntime"].extra == "onnx" and named["av"].extra == "media"
        assert "pytest" not in named, "what only developers need is no part of it"
        assert named["transformers"].wanted == SpecifierSet("<6,>=5.20")
        assert all(package.fits for package in named.values() if not package.extra)

    @pytest.mark.parametrize(
        ("installed", "wanted", "fits"),
        [
            ("2.11.0+cu130", ">=2.11", True),
            ("2.10.1", ">=2.11", False),
            ("6.0", ">=5.20,<6", False),
            ("2.12.0rc1", ">=2.11", True),
            ("unknown", ">=2.11", False),
            (None, ">=2.11", False),
        ],
    )
    def test_a_version_that_does_not_fit(self, installed: str | None, wanted: str, fits: bool) -> None:
        assert software.Package("torch", installed, SpecifierSet(wanted)).fits is fits

    def test_an_old_and_a_broken_package_are_problems(self, tmp_path: Path) -> None:
        """Installed before the others: an xxhash that is too old, and a soundfile whose library is missing."""
        about = tmp_path / "xxhash-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: xxhash\nVersion: 1.0\n")
        (tmp_path / "soundfile.py").write_text("raise OSError('sndfile library not found')\n")
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        command = [
            sys.executable,
            "-c",
            "from gdist.stages.cli import main; main()",
            "doctor",
            "--read-only",
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert done.returncode == 1 and "work would stop at 2 problems" in done.stderr
        old, broken = checks["xxhash"], checks["soundfile"]
        assert (old["status"], old["value"], old["hint"]) == ("problem", "1.0", "pip install 'xxhash>=3.5'")
        assert broken["status"] == "problem" and "sndfile library not found" in broken["means"]


class TestGpus:
    """What a driver and a build of torch mean for each other. A program stands for nvidia-smi."""

    SAID = "| NVIDIA-SMI 470.82.01    Driver Version: 470.82.01    CUDA Version: 11.4     |"

    @pytest.fixture
    def smi(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "nvidia-smi"
        listed = "GPU 0: Tesla T4 (UUID: GPU-8e)\\nGPU 1: Tesla T4 (UUID: GPU-8f)\\n"
        program.write_text(f"#!/bin/sh\n[ -n \"$1\" ] && printf '{listed}' || echo '{self.SAID}'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def test_what_nvidia_smi_says(self, smi: None) -> None:
        assert gpu.driver() == gpu.Driver("470.82.01", "11.4", ("Tesla T4", "Tesla T4"))

    @pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")  # noqa: PTH110
    def test_a_gpu_that_torch_cannot_use_is_a_problem(self, gdist: Gdist, smi: None) -> None:
        """Here, torch finds no GPU, although nvidia-smi shows two."""
        checks = found(gdist("doctor", "--read-only", "--json"))
        assert checks["gpu: driver"]["status"] == "problem" and "2 GPUs" in checks["gpu: driver"]["value"]

    @pytest.mark.parametrize(
        ("here", "built", "count", "status", "words"),
        [
            (None, "12.8", 0, "note", "slowly"),
            (gpu.Driver("470.82", "11.4", ("T4",)), "12.8", 0, "problem", "too old for torch's CUDA 12.8"),
            (gpu.Driver("535.1", "12.2", ("T4",)), "12.8", 1, "ok", ""),  # a newer minor version does not matter
            (gpu.Driver("570.1", "12.8", ("T4",)), None, 0, "problem", "built for CPUs only"),
            (gpu.Driver("570.1", "12.8", ("T4",)), "12.8", 0, "problem", "torch cannot use it: as it says"),
            (gpu.Driver("", "", ()), "12.8", 0, "problem", "does not answer"),
            (gpu.Driver("570.1", "12.8", ()), "12.8", 0, "note", "sees no GPU"),
        ],
    )
    def test_typical_failures(
        self, here: gpu.Driver | None, built: str | None, count: int, status: str, words: str
    ) -> None:
        check = gpu.of_driver(here, built, False, count, "as it says")
        assert check.status == status and words in check.means and (check.hint or status != "problem")

    def test_a_gpu_computes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a pretended one; then as one for which this build of torch has no code, and one that others fill."""
        with pretended() as counts:
            *_, fine = gpu.check_gpus()
            assert counts.launches.total() > 0 and fine.status == "ok" and "multiplied in" in fine.value
            for said, words in (
                ("CUDA error: no kernel image is available for execution on the device", "no code for this GPU"),
                ("CUDA out of memory. Tried to allocate 2.00 MiB", "used by others"),
            ):
                monkeypatch.setattr(torch.cuda, "mem_get_info", raising(RuntimeError(said)))
                *_, broken = gpu.check_gpus()
                assert broken.status == "problem" and words in broken.means and broken.hint
                assert broken.value.startswith("pretended GPU")


def raising(error: Exception) -> Callable[..., None]:
    def function(*_: object) -> None:
        raise error

    return function


class TestLimits:
    def test_of_both_versions_of_control_groups(self, tmp_path: Path) -> None:
        """The smallest limit on the way from the process's own group to the root counts."""
        inner = tmp_path / "pod" / "container"
        inner.mkdir(parents=True)
        (tmp_path / "own").write_text("0::/pod/container\n")
        assert processor.limits(tmp_path, tmp_path / "own") == processor.Limits(None, None)
        (inner / "cpu.max").write_text("max 100000\n")
        (inner / "memory.max").write_text("8000000000\n")
        (tmp_path / "pod" / "cpu.max").write_text("250000 100000\n")
        (tmp_path / "pod" / "memory.max").write_text("4000000000\n")
        assert processor.limits(tmp_path, tmp_path / "own") == processor.Limits(2.5, 4 * 10**9)

        old = tmp_path / "old"
        (old / "cpu,cpuacct" / "job").mkdir(parents=True)
        (old / "memory").mkdir()
        (old / "cpu,cpuacct" / "job" / "cpu.cfs_quota_us").write_text("150000\n")
        (old / "cpu,cpuacct" / "job" / "cpu.cfs_period_us").write_text("100000\n")
        (old / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
        (old / "own").write_text("4:cpu,cpuacct:/job\n")
        assert processor.limits(old, old / "own") == processor.Limits(1.5, None)

    def test_threads_that_a_container_has_no_time_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        check = processor.of_cores(64, 64, 2.0)
        assert check.status == "note" and check.hint == "export OMP_NUM_THREADS=2"
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert processor.of_cores(64, 64, 2.0).status == "ok"
        assert processor.of_memory(3 * 10**9, 10**11, 4 * 10**9).status == "note"
