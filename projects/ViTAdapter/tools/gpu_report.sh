#!/usr/bin/env bash
# Tests and measures everything that needs a GPU, in two commands:
#
#     projects/ViTAdapter/tools/gpu_report.sh operator [WHEELS]   # at most 9 minutes
#     projects/ViTAdapter/tools/gpu_report.sh models [WHEELS]     # at most 7 minutes
#
# LIMIT is the number of seconds that a command may take, if it is less. `operator` begins a new
# report.
#
# Needs no network: WHEELS is the folder of packages that gpu_bundle.sh prepares. They are installed
# into the folder of the results, not into the Python environment; without WHEELS its own packages
# are used. The kernels are compiled in the source tree for the GPU of this machine.
#
# Every step has a limit of time. Its output goes to NAME.txt in the folder of the results, and
# report.json there has the status, the seconds and the figures of all steps of both commands; it is
# written after every step. Steps that this machine does not allow are skipped, with the reason;
# those for which no time is left have timed out. The exit status is 1 if a step failed or timed out,
# or a figure misses its limit (see gpu_summary.py).
#
# PYTHON names the interpreter (default python3), OUTPUT the folder of results (default output/gpu).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.." || exit
python=${PYTHON:-python3}
folder=${OUTPUT:-output/gpu}
tools=projects/ViTAdapter/tools
command=${1:-}
wheels=${2:-}
mkdir -p "$folder"
folder=$(realpath "$folder")
export PYTHONPATH=$folder/site:$PWD/projects/ViTAdapter${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 MPLBACKEND=Agg
PATH=$PATH:/usr/local/cuda/bin
kernels_ready=no

# Messages of NVIDIA's tools on machines that do not let them work.
REFUSALS='Device not supported|Failed to initialize the profiler|ERR_NVGPUCTRPERM'

record() { # record NAME STATUS SECONDS NOTE
  echo "== $1: $2 ($3 s) $4"
  printf '%s\t%s\t%s\t%s\n' "${@:1:3}" "${4//[[:cntrl:]]/ }" >> "$folder/steps_$command.tsv"
}

forget() { # forget COMMAND: deletes what its steps left in an earlier run
  local file=$folder/steps_$1.tsv name
  if [ -f "$file" ]; then
    cut -f 1 "$file" | while read -r name; do rm -f "$folder/$name.json" "$folder/$name.txt"; done
  fi
  rm -f "$file" "$folder/report.json"
}

step() { # step NAME SECONDS PROGRAM...: runs a program with a limit
  local name=$1 limit=$2 start=$SECONDS left=$((deadline - SECONDS)) status note=
  shift 2
  if [ "$left" -lt 5 ]; then
    record "$name" "timed out" 0 "no time is left"
    return 1
  fi
  timeout --kill-after 5 $((limit < left ? limit : left)) "$@" > "$folder/$name.txt" 2>&1
  case $? in
    0) status=passed ;;
    124 | 137) status="timed out" ;;
    127) status=skipped note=$(tail -n 1 "$folder/$name.txt") ;; # a program is not installed
    *) status=failed note="see $name.txt" ;;
  esac
  if [ "$status" = failed ] && [[ " $* " =~ \ (ncu|compute-sanitizer)\  ]] &&
    grep -qE "$REFUSALS" "$folder/$name.txt"; then
    status=skipped note="$(grep -m 1 -oE ".*($REFUSALS).*" "$folder/$name.txt")"
  fi
  record "$name" "$status" $((SECONDS - start)) "$note"
  [ "$status" = passed ]
}

gpu_step() { # like step, but only with kernels: without them, plain PyTorch would be measured
  rm -f "$folder/$1.json" "$folder/$1.txt" # of an earlier run
  if [ "$kernels_ready" = yes ]; then
    step "$@"
  else
    record "$1" skipped 0 "the step kernels did not pass"
  fi
  summarise > /dev/null
}

summarise() {
  "$python" $tools/gpu_summary.py "$folder"
}

install_packages() {
  if [ -z "$wheels" ]; then
    record packages skipped 0 "no folder of wheels is given"
  elif [ "$command" = operator ] || [ ! -d "$folder/site" ]; then
    rm -rf "$folder/site"
    step packages 60 "$python" -m pip install --no-index --no-deps --no-compile --no-cache-dir \
      --target "$folder/site" "$wheels"/*.whl
  fi
}

has_kernels() { # has_kernels RUNNER...: whether there is a GPU, and the operator has kernels for it
  "$@" 60 "$python" -c "import torch
from vit_adapter.ops import extension_info
print(torch.cuda.get_device_name(), info := extension_info())
raise SystemExit(info['backends']['cuda'] != 'kernel')"
}

build_kernels() {
  if [ "$command" = operator ] || ! has_kernels timeout &> /dev/null; then
    # Line numbers are for the profiler.
    step build 180 env VIT_ADAPTER_BUILD=cuda NVCC_PREPEND_FLAGS=-lineinfo \
      "$python" setup.py build_ext --inplace
  fi
  has_kernels step kernels && kernels_ready=yes
}

sanitize() { # sanitize TOOL OPTION...
  local tool=$1
  shift
  # Without PyTorch's pool every tensor is a separate block, so every overrun is detected.
  gpu_step "$tool" 120 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$@" \
    "$python" $tools/check_op.py --device cuda
}

measure_operator() {
  local tests
  step gpu 20 nvidia-smi
  step toolkit 20 nvcc --version
  install_packages
  build_kernels
  gpu_step ceilings 60 bash -c 'nvcc -O3 -arch=native "$1" -o "$2" && "$2" > "$2.json"' \
    build "$tools/gpu_ceilings.cu" "$folder/ceilings"
  # Files that may hold tests for CUDA: marked, or with the fixture of all devices. Collecting all
  # files takes longer than running these.
  mapfile -t tests < <(grep -rlE 'mark\.cuda|device(: torch\.device)?[,)]' --include 'test_*.py' tests)
  gpu_step tests 120 "$python" -m pytest -q -p no:cacheprovider -n 4 -m cuda -rfEs \
    --continue-on-collection-errors -o faulthandler_timeout=60 "${tests[@]}"
  gpu_step benchmark_op 200 "$python" $tools/benchmark_op.py --device cuda \
    --dtypes float32 bfloat16 --points local --repeats 5 --output "$folder" \
    --cases "S 640 injector" "S 640 extractor" "Mask2Former 640" "S 896 injector" \
    "S 896 extractor" "L 1024 injector" "L 1024 extractor" "Mask2Former 1024"
  sanitize memcheck --report-api-errors no & # PyTorch tries calls that may fail
  sanitize initcheck &
  sanitize synccheck &
  wait
  gpu_step profile 60 ncu --clock-control none --csv --page raw --set basic \
    --section MemoryWorkloadAnalysis --section SchedulerStats --section WarpStateStats \
    --kernel-name "regex:forward|backward" --launch-count 4 "$python" -c "
import torch
from vit_adapter.benchmark.op import CASES, make_inputs, training_call
from vit_adapter.ops import ms_deform_attn
inputs = make_inputs(CASES['Mask2Former 1024'], 'local')
for dtype in (torch.float32, torch.bfloat16):
    training_call(ms_deform_attn, inputs.to(torch.device('cuda'), dtype))()"
}

benchmark() { # benchmark NAME SECONDS OPTION...
  local name=$1 limit=$2
  shift 2
  gpu_step "$name" "$limit" "$python" $tools/benchmark.py --device cuda --profile \
    --json "$folder/$name.json" "$@"
}

measure_models() {
  local small=ade20k/mask2former_vit_adapter_small_dinov2_512_40k
  local base=ade20k/mask2former_vit_adapter_base_dinov2_512_40k
  local large=ade20k/mask2former_vit_adapter_large_dinov2_512_40k
  install_packages
  build_kernels
  benchmark inference 130 $small $base $large --sizes 640 --repeats 30 \
    --variants bf16 bf16,graph bf16-weights bf16-weights,graph
  benchmark training_small 60 $small --train --sizes 512 --batch-sizes 2 --variants bf16
  # The large models recompute activations, as in their configs.
  benchmark training_large 80 $large --train --sizes 640 --variants bf16
  # Compiling takes most of the time: with converted weights, which launch the fewest kernels.
  benchmark compiled 200 $small $large $base --sizes 640 --variants bf16-weights,compiled --repeats 30
}

case $command in
  operator) most=520 ;;
  models) most=400 ;;
  *)
    echo "gpu_report: expected operator or models, got '$command'" >&2
    exit 2
    ;;
esac
seconds=${LIMIT:-$most}
if [[ ! $seconds =~ ^[1-9][0-9]*$ ]]; then
  echo "gpu_report: LIMIT must be a number of seconds, such as 240, got '$seconds'" >&2
  exit 2
fi
deadline=$((SECONDS + (seconds < most ? seconds : most)))
forget "$command"
[ "$command" = models ] || forget models
"measure_$command"
summarise
