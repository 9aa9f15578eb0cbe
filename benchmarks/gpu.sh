#!/usr/bin/env bash
# Run everything that needs a GPU: tests and measurements, without a network and within 8 minutes.
#
#   benchmarks/gpu.sh [FOLDER [OPTIONS of gpu.py]]
#
# FOLDER (by default gpu-results) gets tests.txt, gpu.json with all rows and gpu.txt with the table and the profiles.
# PYTHON is the interpreter, by default python3; the package need not be installed.
set -u -o pipefail
out=${1:-gpu-results} options=("${@:2}") python=${PYTHON:-python3}
mkdir -p "$out"
cd "$(dirname "$0")/.." && out=$(cd "$OLDPWD" && cd "$out" && pwd)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
status=0
timeout 120 "$python" -m pytest -m gpu -q -p no:cacheprovider tests/gpu tests/recommender/test_add_items.py 2>&1 | tee "$out/tests.txt" || status=1
timeout 350 "$python" benchmarks/gpu.py --json "$out/gpu.json" "${options[@]}" 2>&1 | tee "$out/gpu.txt" || status=1
exit $status
