#!/usr/bin/env bash
# NERSC Perlmutter. 'bash envs/perlmutter.sh' on a login node makes the environment; job scripts source it.
# Source: NERSC documentation, Python and PyTorch on Perlmutter (python module; mpi4py with the Cray wrapper, cc -shared).
# shellcheck disable=SC1091,SC2034,SC2154
programming_environment=PrgEnv-gnu
python_module=python
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
venv=${root}/.venv-perlmutter
mpicc="cc -shared"

module load "$programming_environment" "$python_module"
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -e
  make_environment python3 torch
else
  load_environment
fi
