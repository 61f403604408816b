#!/usr/bin/env bash
# OLCF Frontier. 'bash envs/frontier.sh INDEX' on a login node makes the environment; job scripts source it.
# INDEX is where torch built for ROCm comes from: pytorch.org/get-started names it (Linux, Pip, ROCm).
# Source: OLCF user documentation, PyTorch on Frontier (modules, ROCm builds of torch, mpi4py with the Cray wrapper).
# Put it on Lustre, not on NFS, where Python starts slowly at scale: venv=/lustre/orion/PROJECT/... below.
# shellcheck disable=SC1091,SC2034,SC2154
programming_environment=PrgEnv-gnu
rocm=rocm/6.4.1
python_module=miniforge3/23.11.0-0
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
venv=${root}/.venv-frontier
mpicc="cc -shared"

module load "$programming_environment" "$rocm" craype-accel-amd-gfx90a "$python_module"
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -e
  make_environment python3 torch --index-url "${1:?name the index of torch for ROCm, from pytorch.org/get-started}"
else
  load_environment
fi
