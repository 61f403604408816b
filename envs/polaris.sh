#!/usr/bin/env bash
# ALCF Polaris. 'bash envs/polaris.sh' on a login node makes the environment; job scripts source it.
# Source: ALCF user guides of 19 August 2026, Python on Polaris: 'module use /soft/modulefiles; module load conda', then
# a virtual environment that inherits the base environment, whose torch stays.
# shellcheck disable=SC1091,SC2034,SC2154
conda_module=conda
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
venv=${root}/.venv-polaris
mpicc=cc
inherit=yes

module use /soft/modulefiles
module load "$conda_module"
conda activate base
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -e
  make_environment python3
else
  load_environment
fi
