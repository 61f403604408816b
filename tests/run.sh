#!/usr/bin/env bash
# Every check and test that this machine can run: lint, types, and tests, including those of MPI at 1, 2 and 4 ranks.
# As root on a system with apt, it installs what the tests of job scripts and of the report page need (Slurm, Chromium
# and shellcheck); elsewhere those tests are skipped and say why. With CI=true, nothing but a GPU may be missing.
#
#   tests/run.sh [pytest arguments]
#   tests/run.sh --quick     unit tests, the contract tests of the engines, one campaign on two ranks
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
bash envs/local.sh || exit 1
export PATH=$PWD/.venv/bin:$PATH
export OMP_NUM_THREADS=1

# The two halves run side by side, each on one core.
units=(tests/test_durations.py tests/test_foundation_*.py tests/test_any_campaign.py tests/test_yaml_files.py
  tests/test_imports.py tests/dataset/test_lsms.py tests/dataset/test_graphs.py tests/dataset/test_targets.py
  tests/dataset/test_derive.py tests/dataset/test_select.py tests/submit/test_submit.py)
engines=(tests/member/contract tests/member/test_learning_rate.py
  tests/member/test_checkpoint.py tests/ensemble/test_schedule.py tests/report/test_statistics.py
  tests/report/test_tables.py tests/test_one_campaign.py)
if [[ ${1-} == --quick ]]; then
  shift
  ruff=0 first=0 second=0
  ruff check || ruff=1
  pytest -q -m "not slow and not slurm" -p no:cacheprovider "${units[@]}" "$@" &
  pytest -q -m "not slow and not slurm" -p no:cacheprovider "${engines[@]}" "$@" || second=1
  wait $! || first=1
  exit $((ruff || first || second))
fi

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
if (($#)); then
  check pytest "$@"
  exit $failed
fi
# Two halves side by side: what kills whole campaigns, and the rest. The output of the second follows that of the first.
campaigns=(tests/ensemble tests/faults tests/slurm tests/test_any_data.py tests/test_hostile_files.py)
output=$(mktemp)
trap 'rm -f "$output"' EXIT
pytest --durations 15 -p no:cacheprovider "${campaigns[@]/#/--ignore=}" >"$output" 2>&1 &
check pytest --durations 15 -p no:cacheprovider "${campaigns[@]}"
wait $! || failed=1
echo "== pytest, all other tests"
cat "$output"
exit $failed
