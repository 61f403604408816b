#!/usr/bin/env bash
# OLCF Frontier. 'bash envs/frontier.sh INDEX' on a login node makes the environment; job scripts source it.
# INDEX is the package index of torch for ROCm 7.1, which the page below and pytorch.org/get-started name.
# Source: OLCF user documentation of 22 July 2026, PyTorch on Frontier: these modules, torch 2.10.0 and Python 3.12 are
# the recommended combination; mpi4py is built with the Cray wrapper while no ROCm module is loaded.
# Put the environment on Lustre, not on NFS, where Python starts slowly at scale: venv=/lustre/orion/PROJECT/... below.
# shellcheck disable=SC1091,SC2034,SC2154
programming_environment="PrgEnv-gnu/8.7.0 cpe/26.03"
gpu_modules="rocm/7.1.1 craype-accel-amd-gfx90a"
python_module=miniforge3/23.11.0-0
torch=torch==2.10.0
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
venv=${root}/.venv-frontier
mpicc="cc -shared"

# Unquoted: each is several modules.
# shellcheck disable=SC2086
module load $programming_environment "$python_module" $gpu_modules
# The libraries of a cpe that is not the default one are not where the system looks.
export LD_LIBRARY_PATH=${CRAY_LD_LIBRARY_PATH:-}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -e
  index=${1:?name the index of torch for ROCm 7.1}
  # shellcheck disable=SC2086
  module unload $gpu_modules # else the build of mpi4py may link against ROCm's libraries
  # The module's own Python is older than 3.11.
  [ -x "$venv-python/bin/python3" ] || conda create -y -q -p "$venv-python" -c conda-forge python=3.12
  make_environment "$venv-python/bin/python3" "$torch" --index-url "$index"
else
  load_environment
fi
