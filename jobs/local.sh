#!/usr/bin/env bash
# The quick start: the environment, a small surrogate data set, a campaign of 14 members on two ranks, its tables.
# A second call continues where the first one stopped, and only shows the tables when nothing is left to do.
#
#   jobs/local.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash envs/local.sh
export PATH=$PWD/.venv/bin:$PATH

data=data/quickstart.bp out=runs/quickstart
mkdir -p data runs
if [[ ! -e $data ]]; then
  # Each step writes a temporary folder and renames it, so what exists is whole.
  [[ -e data/quickstart-lsms ]] || hydragnn-hpc data generate data/quickstart-lsms --cap 100 --seed 0
  hydragnn-hpc data prepare data/quickstart-lsms "$data"
fi
mpirun -n 2 hydragnn-hpc run jobs/campaigns/quickstart.yaml "$out"
hydragnn-hpc report "$out"
echo
echo "Tables: $out/report/table1.md, $out/report/timing.md (also .csv and .tex)"
echo "Page:   $out/report/index.html (figures in $out/report/figures)"
