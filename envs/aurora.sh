#!/usr/bin/env bash
# ALCF Aurora. 'bash envs/aurora.sh' on a login node makes the environment; job scripts source it.
# Source: ALCF user guides, PyTorch on Aurora: the frameworks module brings torch with XPU support and mpi4py over Aurora
# MPICH; a virtual environment inherits both.
# shellcheck disable=SC1091,SC2034,SC2154
frameworks=frameworks
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
venv=${root}/.venv-aurora
mpicc=mpicc
inherit=yes

module load "$frameworks"
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -e
  make_environment python3
else
  load_environment
fi
