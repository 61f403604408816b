# What the environments of all machines share; sourced by envs/MACHINE.sh, which sets $venv and $mpicc, sets $inherit
# where a module brings torch, and loads the modules.
# Called as a program, envs/MACHINE.sh makes the environment; sourced, as job scripts do, it loads it.
# shellcheck shell=bash disable=SC2154

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python_folder=${PATH%%:*} # a job script has put its own Python's folder first; modules go ahead of it afterwards

# load_environment : the environment that this script made, else the one that this package is installed in.
load_environment() {
  if [ -e "$venv/bin/activate" ]; then activate; else export PATH=$python_folder:$PATH; fi
}

# activate : the virtual environment, without packages of the user's home, which would be found ahead of the module's.
activate() {
  export PYTHONNOUSERSITE=1
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
}

# provided PYTHON : the versions that pip must leave alone: what a module brings, and torch once it is there.
provided() {
  [ -z "${inherit:-}" ] || "$1" "$root/envs/provided.py" "$0" "$venv" || return
  "$venv/bin/python" -m pip list --format=freeze | grep -i '^torch==' || true
}

# make_environment PYTHON TORCH... : a virtual environment on PYTHON, torch as the machine needs it, mpi4py built
# against the machine's MPI, the rest from the package registry, this package, and a check of it all. With $inherit, it
# is laid over the packages of the module: none is replaced that is new enough, and torch never.
make_environment() {
  local python
  python=$(command -v "$1") || return # the module's, also after the virtual environment is active
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
  activate
  if (($#)); then pip install "$@" || return; fi
  provided "$python" >"$venv/provided.txt" || return
  # A wheel of mpi4py may find another MPI first: this one is built against the compiler wrapper's.
  MPICC=$mpicc pip install --no-cache-dir --no-binary=mpi4py -c "$venv/provided.txt" \
    "$(grep -o 'mpi4py>=[0-9.]*' "$root/setup.py")" || return
  pip install -c "$venv/provided.txt" -e "$root" || {
    echo "$0: error: pip failed; the versions in $venv/provided.txt stay: if one conflicts, load another module" >&2
    return 1
  }
  hydragnn-hpc doctor || echo "$0: the login node may lack GPUs and a launcher: call doctor in a job as well" >&2
}
