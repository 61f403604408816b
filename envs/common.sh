# What the environments of all machines share; sourced by envs/MACHINE.sh, which sets $venv and loads the modules.
# Called as a program, envs/MACHINE.sh makes the environment; sourced, as job scripts do, it loads it.
# shellcheck shell=bash disable=SC2154

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python_folder=${PATH%%:*} # a job script puts its own Python's folder first, ahead of what modules add

# load_environment : the environment that this script made, else the one that this package is installed in.
load_environment() {
  # shellcheck disable=SC1091
  if [ -e "$venv/bin/activate" ]; then . "$venv/bin/activate"; else export PATH=$python_folder:$PATH; fi
}

# provided PYTHON : the versions that pip must leave alone: all that a module brings, and torch once it is there.
provided() {
  {
    [ -z "${inherit:-}" ] || "$1" -m pip list --format=freeze
    "$venv/bin/python" -m pip list --format=freeze | grep -i '^torch=='
  } | grep -Eiv '^(pip|setuptools|wheel)==' | sort -u
}

# make_environment PYTHON TORCH... : a virtual environment on PYTHON, torch as the machine needs it, mpi4py built
# against the machine's MPI, the rest from the package registry, this package, and a check of it all. With $inherit, it
# is laid over the packages of the module, and none of them is replaced.
make_environment() {
  local python=$1
  shift
  [ -f "$root/setup.py" ] || {
    echo "$0: error: $root is an installed package; call this script in a checkout, or install the wheel yourself" >&2
    return 1
  }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$0: error: $python is older than Python 3.11; set another python module at the top of $0" >&2
    return 1
  }
  [ -x "$venv/bin/python" ] || "$python" -m venv ${inherit:+--system-site-packages} "$venv" || return
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
  if (($#)); then pip install "$@" || return; fi
  provided "$python" >"$venv/provided.txt"
  # A wheel of mpi4py may find another MPI first: this one is built against the compiler wrapper's.
  MPICC=$mpicc pip install --no-cache-dir --no-binary=mpi4py -c "$venv/provided.txt" mpi4py || return
  pip install -c "$venv/provided.txt" -e "$root" || {
    echo "$0: error: the versions in $venv/provided.txt stay; where one is too old, load a newer module (top of $0)" >&2
    return 1
  }
  hydragnn-hpc doctor || echo "$0: the login node may lack GPUs and a launcher: call doctor in a job as well" >&2
}
