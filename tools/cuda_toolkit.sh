#!/usr/bin/env bash
# What `make CUDA=1` needs of CUDA 13 and cuDNN 9, from PyPI's wheels, where no toolkit is installed:
#   tools/cuda_toolkit.sh FOLDER                   then: make CUDA=1 CUDA_HOME=FOLDER
#   tools/cuda_toolkit.sh --libraries FOLDER TO    only the libraries that libinferd_cuda.so loads, to go beside it (TO = .../lib/inferd)
# A driver is no part of it: libcuda.so.1 and libnvidia-ml.so.1 come with the machine or with the container runtime.
set -eu
wheels=("nvidia-cuda-nvcc==13.0.*" "nvidia-cuda-crt==13.0.*" "nvidia-nvvm==13.0.*" "nvidia-cuda-runtime==13.0.*" "nvidia-cuda-cccl==13.0.*" "nvidia-cuda-nvrtc==13.0.*" "nvidia-cublas==13.1.*" "nvidia-cudnn-cu13==9.19.*")

if [ "$1" = --libraries ]; then
    from=$2 to=$3
    mkdir -p "$to"
    for name in libcudart libcublas libcublasLt libcudnn libnvrtc; do cp -P "$from"/lib/"$name"*.so.* "$to"; done
    exit 0
fi

to=$1
[ -x "$to/bin/nvcc" ] && exit 0
mkdir -p "$to"
work=$(mktemp -d -p "$to")
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --target "$work/wheels" "${wheels[@]}"
# nvcc finds its other halves from where it lies, so everything moves to one place.
cp -a "$work"/wheels/nvidia/cu13/. "$to"
cp -a "$work"/wheels/nvidia/cudnn/include/. "$to/include"
cp -a "$work"/wheels/nvidia/cudnn/lib/. "$to/lib"
ln -sfn lib "$to/lib64"
chmod +x "$to"/bin/* "$to"/nvvm/bin/*
for library in "$to"/lib/*.so.*; do ln -sf "${library##*/}" "${library%%.so.*}.so"; done
