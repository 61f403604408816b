#!/usr/bin/env bash
# Makes .venv in the checkout: torch, the versions of envs/local.lock, and this package in editable form.
# A second call is quick; the next call completes an interrupted one; of two calls at once, one waits for the other.
#
#   envs/local.sh [--python PATH] [--torch-index URL] [--lock FILE --venv FOLDER]
#
# --python PATH       the Python (3.11 or newer) to build on; by default the first one found
# --torch-index URL   where torch comes from; pytorch.org/get-started lists one for each build (CPU, CUDA, ROCm)
# --lock FILE         other versions (envs/oldest.lock holds the oldest that work), for a folder of their own:
# --venv FOLDER       where the environment is made, in the checkout
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lock=envs/local.lock venv=.venv python="" torch_index=()

fail() {
  echo "envs/local.sh: error: $1" >&2
  exit 1
}

while (($#)); do
  case $1 in
    --python | --torch-index | --lock | --venv)
      (($# > 1)) || fail "$1 needs a value"
      case $1 in
        --python) python=$2 ;;
        --torch-index) torch_index=(--index-url "$2") ;;
        --lock) lock=$2 ;;
        --venv) venv=${2%/} ;;
      esac
      shift 2
      ;;
    *) fail "unknown argument '$1'; known are --python PATH, --torch-index URL, --lock FILE and --venv FOLDER" ;;
  esac
done
[[ $lock == envs/local.lock || $venv != .venv ]] || fail "--lock needs --venv: .venv belongs to envs/local.lock"
cd "$root"
[[ -f $lock ]] || fail "--lock $lock: no such file; the locks are in envs/"
name=$venv
[[ $lock == /* ]] || lock=$root/$lock
[[ $venv == /* ]] || venv=$root/$venv
log=$venv-install.log

# A name on PATH is not enough: a version manager's shim may exist for a Python that is not active, and some
# distributions ship Python without ensurepip.
usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  if [[ -n $python ]]; then
    usable "$python" || fail "--python $python: not a Python 3.11 or newer with the venv module; name another"
    return
  fi
  for python in python3.11 python3.12 python3.13 python3; do
    usable "$python" && return
  done
  fail "no Python 3.11 or newer with the venv module on PATH; install one, or name it with --python PATH"
}

install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile "$@" >>"$log" 2>&1 && return
  local why
  why=$(grep -E '^(ERROR|error)' "$log" | tail -n 1 || true)
  if grep -qiE 'NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Network is unreachable' "$log"; then
    why="the package index cannot be reached; connect to the network, or set pip's index (pip config)"
  fi
  fail "pip could not install: ${why:-see the log}; the log is $log"
}

# The stamp is written last: it shows what the environment was made from, and that it is complete.
# The checkout's path is in it, since a moved virtual environment does not work.
stamp=$(printf '%s\n' "$root" | cat - "$lock" "$root/setup.py" "${BASH_SOURCE[0]}" | cksum)
ready() { [[ $(cat "$venv/.stamp" 2>/dev/null) == "$stamp" ]] && "$venv/bin/python" -c "" 2>/dev/null; }
ready && exit 0

find_python
# The lock belongs to the open file, so that it ends with this script; Python takes it, as macOS has no flock command.
exec 9>"$venv.lock"
"$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null || {
  echo "envs/local.sh: another call is at work on $venv; waiting for it" >&2
  "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}
ready && exit 0

: >"$log"
if [[ -e $venv ]] && { [[ ! -f $venv/.stamp ]] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
  echo "envs/local.sh: $venv is incomplete; making it again" >&2
  rm -rf "$venv"
fi
rm -f "$venv/.stamp"
# Children must not inherit the lock (9>&-): one that outlives a killed script would hold it.
if [[ ! -x $venv/bin/python ]]; then
  "$python" -m venv "$venv" >>"$log" 2>&1 9>&- || fail "cannot make $venv: $(tail -n 1 "$log")"
fi
# torch first and alone: asked for together with the rest, pip may choose another build of it.
echo "envs/local.sh: installing torch" >&2
install "${torch_index[@]+"${torch_index[@]}"}" "$(grep '^torch==' "$lock")" 9>&-
echo "envs/local.sh: installing $(grep -c '==' "$lock") packages of envs/${lock##*/}" >&2
install -r "$lock" 9>&-
install --no-deps --no-build-isolation -e "$root" 9>&-
# On all cores, where pip would use one, and without the packages' tests; files that are no valid Python, such as
# templates, stay as they are. With other versions few modules are used, and Python compiles these itself.
[[ $lock != "$root/envs/local.lock" ]] ||
  "$venv/bin/python" -m compileall -qq -j 0 -x '/site-packages/.*/tests?/' "$venv"/lib/python*/site-packages >>"$log" 2>&1 9>&- || true
printf '%s\n' "$stamp" >"$venv/.stamp"
echo "envs/local.sh: ready: $venv (activate it with '. $name/bin/activate')" >&2
