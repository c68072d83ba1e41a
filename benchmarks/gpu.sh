#!/usr/bin/env bash
# benchmarks/gpu.py on a machine that has torch and perhaps nothing else, not even the internet.
#
#     WHEELS=folder benchmarks/gpu.sh [the options of gpu.py]
#
# WHEELS is a folder of wheels for what that machine lacks (`pip download -d folder PACKAGE…` on another one, with the
# same Python). gdist itself is not installed but linked, since it is a namespace of three folders. Nothing outside a
# temporary folder is changed. PYTHON names the interpreter.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-cache-dir --target "$site" "$WHEELS"/*.whl
fi
mkdir -p "$site/gdist" "$site/gdist-0.dist-info"
for part in pipeline stages data_manifests; do ln -s "$root/$part" "$site/gdist/$part"; done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
printf 'Metadata-Version: 2.1\nName: gdist\nVersion: %s\n' "$version" > "$site/gdist-0.dist-info/METADATA"
# benchmarks/ is not on this path: a process that begins there would take encodings.py for the standard library's.
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
cd "$root"
"$python" benchmarks/gpu.py "$@"
