# The project in a container, for the CPU:
#
#   docker build -t vit-adapter .
#   docker run --rm -it --shm-size=8g -v "$PWD/output:/vit-adapter/output" vit-adapter
#
# For GPUs, give a base image with the CUDA compiler, and PyTorch's packages for the same version:
#
#   docker build -t vit-adapter:cuda --build-arg VIT_ADAPTER_BUILD=cuda \
#     --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm -it --gpus all --shm-size=8g vit-adapter:cuda

ARG BASE=ubuntu:24.04
FROM ${BASE}

RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /vit-adapter
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_EXTRA_INDEX_URL=${TORCH_INDEX} PIP_NO_CACHE_DIR=1

# The dependencies have a layer of their own, which is kept when the project changes.
COPY Makefile requirements.txt ./
COPY projects/ViTAdapter/tools/install_detectron2.py projects/ViTAdapter/tools/
COPY projects/ViTAdapter/vit_adapter/__init__.py projects/ViTAdapter/vit_adapter/
COPY projects/ViTAdapter/vit_adapter/install_detectron2/ \
     projects/ViTAdapter/vit_adapter/install_detectron2/
RUN make .venv/.stamps/detectron2

COPY . .
ARG VIT_ADAPTER_BUILD=cpu
RUN make setup VIT_ADAPTER_BUILD=${VIT_ADAPTER_BUILD}
ENV PATH=/vit-adapter/.venv/bin:${PATH}
RUN python -m vit_adapter.doctor --quick

CMD ["bash"]
