#!/usr/bin/env bash
# Usage: setup_venv.sh VENV. Builds the virtual environment; an importable detectron2 is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
"${PYTHON:-python3}" - <<'PY'
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"Python 3.10 to 3.13 is needed, this is {sys.version.split()[0]}: run make setup PYTHON=/path/to/python3.11")
PY
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
if ! "$venv/bin/python" -c "import detectron2" 2>/dev/null; then
    site=$("$venv/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    # The wheel is tagged cp310, so pip must be told to take it and where to put it.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.10 --implementation cp --require-hashes --target "$site" -r requirements-detectron2.txt
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
