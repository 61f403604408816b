#!/usr/bin/env bash
# Every check and test that this machine can run: lint, types, and tests, including those of MPI at 1, 2 and 4 ranks.
# As root on a system with apt, it installs what the tests of job scripts and of the report page need (Slurm, Chromium,
# locales and shellcheck); elsewhere those tests are skipped with a reason. With CI=true, only a GPU may be missing.
#
#   tests/run.sh [pytest arguments]
#   tests/run.sh --long      promises under all of their settings, the fault suite in full: hours
#   tests/run.sh --quick     unit tests, the contract tests of the engines, one campaign on two ranks
#   tests/run.sh --oldest    with the oldest versions that setup.py admits: tests of each use of each package; and an
#                            archive made with the current versions is read
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# The whole suite needs an environment of the oldest versions, too, which is made at the same time; errors are reported
# where it is used.
whole=0
[[ $# != 0 && $* != --long ]] || whole=1
((!whole)) || bash envs/local.sh --lock envs/oldest.lock --venv .venv-oldest >/dev/null 2>&1 &
bash envs/local.sh || exit 1
bash envs/tests.sh || true # without it some tests are skipped, and fail with CI=true
export PATH=$PWD/.venv/bin:$PATH
export OMP_NUM_THREADS=1

# --quick runs these two parts side by side, each on one core.
units=(tests/test_durations.py tests/test_foundation_*.py tests/test_any_campaign.py tests/test_yaml_files.py
  tests/test_imports.py tests/dataset/test_lsms.py tests/dataset/test_graphs.py tests/dataset/test_targets.py
  tests/dataset/test_derive.py tests/dataset/test_select.py tests/submit/test_scripts.py tests/submit/test_plan.py
  tests/submit/test_profiles.py tests/submit/test_chain.py tests/submit/test_submit.py tests/test_one_campaign.py
  tests/member/test_learning_rate.py tests/member/test_checkpoint.py tests/ensemble/test_stack_queue.py
  tests/report/test_statistics.py tests/report/test_tables.py)
engines=(tests/member/contract)

# With the oldest versions: pydantic, PyYAML; ASE, vesin, SciPy, ADIOS2; PyTorch Geometric, torch; mpi4py and MPI;
# pandas, Matplotlib, Jinja, Pillow, tensorboardX; typer, rich. A test for each use, not for each case.
uses=(tests/test_foundation_config.py tests/test_yaml_files.py
  tests/dataset/test_formats.py tests/dataset/test_graphs.py tests/dataset/test_inputs.py tests/dataset/test_symmetry.py
  tests/dataset/test_convert.py::test_a_data_set_of_lsms_text_comes_back_as_text
  tests/member/test_convolutions.py::test_weights_are_restored_from_a_file
  tests/member/test_convolutions.py::test_bessel_functions_are_those_of_pytorch_geometric
  tests/member/test_convolutions.py::test_no_generated_source_is_left_in_the_temporary_folder
  tests/member/contract/test_contract.py::test_several_geometries tests/member/test_checkpoint.py
  tests/test_one_campaign.py tests/cli/test_doctor.py::test_all_is_well_here
  tests/prediction/test_predict.py::test_a_campaigns_own_test_samples_come_out_as_they_did
  tests/prediction/test_calculator.py::test_results_are_those_of_the_ensemble
  tests/exchange/test_models.py::test_the_degrees_that_are_written_have_the_averages_of_the_training
  tests/report/test_statistics.py tests/report/test_tables.py
  tests/report/test_report.py::test_an_unfinished_campaign_has_every_figure_that_it_can_have
  tests/report/test_report.py::test_page_and_supplement_say_the_same
  tests/report/test_report.py::test_tensorboard_receives_every_epoch_of_every_member
  tests/cli/test_results.py::test_status_prints_plain_text_where_there_is_no_terminal
  tests/cli/test_results.py::test_help_has_an_example tests/submit/test_scripts.py::test_scripts_are_the_golden_ones)

# oldest : the tests of all uses, in an environment of the oldest versions; the whole suite includes it.
oldest() {
  bash envs/local.sh --lock envs/oldest.lock --venv .venv-oldest || return
  local failed=0
  local quiet=(-q -p no:cacheprovider)
  PATH=$PWD/.venv-oldest/bin:$PATH pytest "${quiet[@]}" -m "not slurm and not realdata" "${uses[@]}" || failed=1
  pytest "${quiet[@]}" -m versions tests/prediction --other-python "$PWD/.venv-oldest/bin/python" || failed=1
  return $failed
}
if [[ ${1-} == --oldest ]]; then
  oldest
  exit
fi
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
[[ -e /usr/share/i18n/locales/en_US ]] || missing+=(locales)
command -v shellcheck >/dev/null || missing+=(shellcheck)
command -v chromium >/dev/null || missing+=(chromium)
if ((${#missing[@]})) && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  echo "tests/run.sh: installing ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}"; } \
    >.tests-install.log 2>&1 </dev/null ||
    echo "tests/run.sh: apt-get could not install them; the log is .tests-install.log" >&2
fi

failed=0
check() {
  echo "== $*"
  "$@" || failed=1
}
check ruff check
check ruff format --check
if ((!whole)); then
  check mypy
  check pytest "$@"
  exit $failed
fi
long=("$@")
# Four parts side by side on two cores, since many tests only wait, for a scheduler or for a rank that is lost.
jobs=(tests/slurm tests/faults tests/test_any_data.py tests/test_documents.py tests/test_hostile_files.py)
campaigns=(tests/ensemble tests/dataset)
results=(tests/prediction tests/report tests/exchange tests/cli)
others=("${jobs[@]/#/--ignore=}" "${campaigns[@]/#/--ignore=}" "${results[@]/#/--ignore=}" --ignore=tests/gpu)
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT
mypy >"$outputs/mypy" 2>&1 &
types=$!
# part NAME ARGUMENTS : one part; its failures are recorded by name.
part() { pytest "${long[@]}" --durations 15 -o cache_dir="$outputs/$1.cache" "${@:2}"; }
# again NAME STATUS ARGUMENTS : what failed in a part runs once more, now alone: beside the others, a process may wait
# for a core longer than a test allows. A second failure counts, and the last lines name what needed a second try.
retried=()
again() {
  [[ ! -f $outputs/$1 ]] || { echo "== pytest, $1" && cat "$outputs/$1"; }
  if (($2 == 1)); then
    echo "== once more, alone: what failed among $1"
    mapfile -t -O ${#retried[@]} retried < <(
      python -c 'import json, sys; print(*json.load(sys.stdin), sep="\n")' <"$outputs/$1.cache/v/cache/lastfailed"
    )
    check pytest "${long[@]}" --last-failed -o cache_dir="$outputs/$1.cache" "${@:3}"
  elif (($2)); then
    failed=1
  fi
}
# devices_and_oldest : two short parts, without a second try.
devices_and_oldest() {
  local failed=0
  # A process of its own: the emulated device must exist before any backward pass.
  check pytest "${long[@]}" tests/gpu
  check oldest
  return $failed
}
statuses=(0 0 0 0)
part campaigns "${campaigns[@]}" >"$outputs/campaigns" 2>&1 &
second=$!
part others "${others[@]}" >"$outputs/others" 2>&1 &
third=$!
{
  devices_and_oldest || touch "$outputs/failed"
  part results "${results[@]}" >"$outputs/results"
} >"$outputs/devices and oldest" 2>&1 &
fourth=$!
echo "== pytest, jobs"
part jobs "${jobs[@]}" || statuses[0]=$?
wait $types || failed=1
echo "== mypy"
cat "$outputs/mypy"
wait $second || statuses[1]=$?
wait $third || statuses[2]=$?
wait $fourth || statuses[3]=$?
cat "$outputs/devices and oldest"
[[ ! -e $outputs/failed ]] || failed=1
again jobs "${statuses[0]}" "${jobs[@]}"
again campaigns "${statuses[1]}" "${campaigns[@]}"
again others "${statuses[2]}" "${others[@]}"
again results "${statuses[3]}" "${results[@]}"
((!${#retried[@]})) || printf '== needed a second try: %s\n' "${retried[@]}"
exit $failed
