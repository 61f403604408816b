#!/usr/bin/env bash
# NERSC Perlmutter. 'bash envs/perlmutter.sh' on a login node makes the environment; job scripts source it.
# Source: NERSC documentation, Python and PyTorch on Perlmutter: modules pytorch/VERSION bring the centre's own build of
# torch; mpi4py is built with the Cray wrapper. The version is from job scripts that users there published in August
# 2026: pytorch/2.11.0 (Python 3.12); pytorch/2.8.0 is too old. 'module avail pytorch' lists what there is now.
# shellcheck disable=SC1091,SC2034,SC2154
programming_environment=PrgEnv-gnu # the machine's default version
pytorch_module=pytorch/2.11.0
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
venv=${root}/.venv-perlmutter
mpicc="cc -shared"
inherit=yes

module load "$programming_environment" "$pytorch_module"
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -e
  make_environment python3
else
  load_environment
fi
