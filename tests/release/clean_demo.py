"""`make dist-demo`: a wheel as a user gets it, in an environment that has nothing else, and its `gdist demo`.

Nothing is pinned: pip chooses today's newest packages that gdist's metadata allows, as it does for a user. The demo
runs in a folder where there are no sources that could be imported by accident.

    python tests/release/clean_demo.py ENVIRONMENT WHEEL
"""

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path


def size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def main(environment: Path, wheel: Path) -> int:
    environment, wheel = environment.absolute(), wheel.resolve()
    # No PYTHON… of whoever runs this: with PYTHONPATH, other sources than the wheel's could be imported.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    venv.create(environment, clear=True, with_pip=True)
    python = str(environment / "bin" / "python")
    started = time.monotonic()
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", str(wheel)], check=True, env=env)
    subprocess.run([*pip, "check"], check=True, env=env)
    took, weighs = time.monotonic() - started, size(environment) / 1e9
    print(f"installed in {took:.0f} s, {weighs:.2f} GB; wheel {wheel.stat().st_size:,} bytes", flush=True)
    subprocess.run([*pip, "list", "--format", "freeze"], check=True, env=env)
    with tempfile.TemporaryDirectory() as place:
        where = "import gdist.stages, pathlib; print(pathlib.Path(gdist.stages.__file__).parent)"
        found = subprocess.run([python, "-c", where], cwd=place, env=env, check=True, capture_output=True, text=True)
        if not Path(found.stdout.strip()).is_relative_to(environment):
            raise SystemExit(f"error: gdist is imported from {found.stdout.strip()}, not from {environment}")
        started = time.monotonic()
        subprocess.run([environment / "bin" / "gdist", "demo", "--out", "out"], cwd=place, env=env, check=True)
        report = Path(place) / "out" / "report.html"
        if not report.is_file() or "gendistiller" not in report.read_text(encoding="utf-8"):
            raise SystemExit(f"error: gdist demo ended well, but {report} is no report")
        print(f"demo in {time.monotonic() - started:.0f} s; report {report.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
