#!/usr/bin/env bash
# Prepares a folder for measuring on a GPU machine that has no network:
#
#     projects/ViTAdapter/tools/gpu_bundle.sh [FOLDER]
#
# FOLDER (default output/gpu_bundle) gets wheels/, the packages for gpu_report.sh, and
# project.tar.gz, the committed files of this repository. The GPU machine must have CUDA's compiler
# and, for its Python, pip, setuptools, PyTorch and torchvision for CUDA, NumPy, SciPy, Pillow,
# matplotlib, OpenCV, tensorboard, huggingface_hub, safetensors, tqdm, PyYAML, pytest, pytest-xdist
# and hypothesis.
#
# TARGET_PYTHON is the version of its Python (default 3.12). PYTHON is the interpreter that runs pip
# here; it needs PyTorch, setuptools and wheel (default python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
python=${PYTHON:-python3}
target=${TARGET_PYTHON:-3.12}
folder=${1:-output/gpu_bundle}
limit=60 # MiB
wheels=(pycocotools timm omegaconf hydra-core yacs termcolor tabulate cloudpickle
  portalocker==3.2.0 deformops==3.0.1)
sources=(fvcore iopath antlr4-python3-runtime==4.9.3) # not on the package index as wheels

pinned() { # pinned NAME[==VERSION]: with the version of requirements.txt, if there is one
  grep -m 1 "^$1==" requirements.txt || echo "$1"
}

pip() {
  "$python" -m pip --quiet --disable-pip-version-check "$@"
}

mkdir -p "$folder"
rm -rf "$folder/wheels"
for name in "${wheels[@]}"; do
  pip download --no-deps --only-binary :all: --implementation cp --python-version "$target" \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --dest "$folder/wheels" "$(pinned "$name")"
done
for name in "${sources[@]}"; do
  pip wheel --no-deps --no-build-isolation --wheel-dir "$folder/wheels" "$(pinned "$name")"
done
PYTHONPATH=projects/ViTAdapter "$python" projects/ViTAdapter/tools/install_detectron2.py \
  --wheel-dir "$folder/wheels"
git archive --prefix vit_adapter/ --output "$folder/project.tar.gz" HEAD

size=$(du --summarize --block-size 1M "$folder" | cut -f 1)
echo "$folder: $size MiB, $(find "$folder/wheels" -name '*.whl' | wc -l) wheels"
if [ "$size" -gt "$limit" ]; then
  echo "gpu_bundle: $folder has $size MiB, expected at most $limit" >&2
  exit 1
fi
