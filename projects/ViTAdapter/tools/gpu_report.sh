#!/usr/bin/env bash
# Runs all checks that need a GPU in one command:
#
#     VIT_ADAPTER_BUILD=cuda pip install --no-build-isolation -e .
#     projects/ViTAdapter/tools/gpu_report.sh [FOLDER]
#
# Makes sure that there are kernels for CUDA. Then runs the tests that need a GPU, those of the
# operator also under compute-sanitizer (memcheck and racecheck, if it is installed), and the
# benchmarks of operator and backbone; the summary compares the operator's figures with their
# limits. Every step's output goes to a file in FOLDER (default output/gpu); the exit status is 1 if
# a step failed. PYTHON names the interpreter. Kernels of other projects are compared if they are
# installed (see vit_adapter/benchmark/formulations.py).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
python=${PYTHON:-python}
folder=${1:-output/gpu}
tools=projects/ViTAdapter/tools
status=0
mkdir -p "$folder"

step() { # step NAME COMMAND...
  local name=$1
  shift
  echo "== $name"
  "$@" 2>&1 | tee "$folder/$name.txt" | tail -n 3
  if [ "${PIPESTATUS[0]}" -ne 0 ]; then
    echo "== $name FAILED, see $folder/$name.txt"
    status=1
  fi
}

check() { # check TOOL OPTION...: the operator's tests under compute-sanitizer
  local tool=$1
  shift
  # Without PyTorch's pool every tensor is a separate block, so every overrun is detected.
  step "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$@" "$python" -m pytest -q -m cuda \
    tests/unit/ops/test_functional.py tests/unit/ops/test_registration.py
}

step gpu nvidia-smi
# Without the kernels, plain PyTorch would pass the tests.
step kernels "$python" -c "from vit_adapter.ops import extension_info; info = extension_info()
print(info); raise SystemExit(info['backends']['cuda'] != 'kernel')"
step tests "$python" -m pytest -q -m cuda tests
if command -v compute-sanitizer > /dev/null; then
  check memcheck --report-api-errors no # PyTorch tries calls that may fail
  check racecheck
else
  echo "== memcheck and racecheck skipped: no compute-sanitizer in PATH"
  status=1
fi
step operator "$python" $tools/benchmark_op.py --device cuda --output "$folder"
step summary "$python" $tools/gpu_summary.py "$folder/benchmark_op.json"
step backbone "$python" $tools/benchmark_backbone.py --device cuda --compile \
  --sizes tiny small base large --image-size 512
exit $status
