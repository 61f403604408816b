#!/usr/bin/env bash
# Every check and test that this machine can run: lint, types, and the tests, those of MPI at 1, 2 and 4 ranks among them.
# As root on a system with apt, it installs what the tests of job scripts and of the report page need (Slurm, shellcheck,
# Chromium); elsewhere those tests are left out and say why. With CI=true nothing may be missing.
#
#   tests/run.sh [arguments of pytest]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
bash envs/local.sh || exit 1
export PATH=$PWD/.venv/bin:$PATH
export OMP_NUM_THREADS=1

missing=()
command -v slurmctld >/dev/null && command -v slurmd >/dev/null || missing+=(slurm-wlm)
command -v munged >/dev/null || missing+=(munge)
command -v shellcheck >/dev/null || missing+=(shellcheck)
command -v chromium >/dev/null || missing+=(chromium)
if ((${#missing[@]})) && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  echo "tests/run.sh: installing ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >.tests-install.log 2>&1 </dev/null ||
    echo "tests/run.sh: apt-get could not install them; the log is .tests-install.log" >&2
fi

failed=0
check() {
  echo "== $*"
  "$@" || failed=1
}
check ruff check
check ruff format --check
check mypy
echo "== pytest"
pytest "$@" || failed=1
exit $failed
