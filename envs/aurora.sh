#!/usr/bin/env bash
# ALCF Aurora. 'bash envs/aurora.sh' on a login node makes the environment; job scripts source it.
# Source: ALCF user guides of 19 August 2026, PyTorch on Aurora: frameworks/2025.3.1 brings torch 2.10.0a0 with XPU
# support, and mpi4py over Aurora MPICH; a virtual environment inherits both. pip never replaces torch, and mpi4py only
# if it is older than setup.py admits.
# shellcheck disable=SC1091,SC2034,SC2154
frameworks=frameworks/2025.3.1
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
