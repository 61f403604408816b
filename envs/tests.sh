#!/usr/bin/env bash
# Installs what only the tests need: Triton, whose interpreter and compiler work without a GPU, into .venv, and
# HydraGNN, with which tests/exchange and tests/benchmarks compare, into .venv/hydragnn. A second call is quick.
#
#   envs/tests.sh
#
# HydraGNN has a folder of its own, since it brings packages named 'tests' and 'utils', which would hide this project's
# tests. It comes without its dependencies, of which pickle5 and torch-scatter are neither needed nor easily built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash envs/local.sh

# installed LOCK STAMP NEEDS [pip options] : install the packages of a lock, unless the stamp says that they are there.
installed() {
  local lock=$1 stamp=$2 needs=$3
  cmp -s "$lock" "$stamp" && return
  echo "envs/tests.sh: installing $(grep -c '==' "$lock") packages of $lock" >&2
  local options=(--quiet --disable-pip-version-check --no-deps --no-build-isolation)
  .venv/bin/python -m pip install "${options[@]}" "${@:4}" -r "$lock" || {
    echo "envs/tests.sh: error: pip could not install them (see above); $needs needs them" >&2
    return 1
  }
  cp "$lock" "$stamp"
}

code=0
installed envs/triton.lock .venv/triton.installed tests/member || code=1
cmp -s envs/hydragnn.lock .venv/hydragnn/installed || rm -rf .venv/hydragnn
installed envs/hydragnn.lock .venv/hydragnn/installed tests/exchange --target .venv/hydragnn || code=1
exit $code
