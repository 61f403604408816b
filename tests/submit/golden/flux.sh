#!/bin/bash
# flux: --job-name=fept
# flux: --nodes=1
# flux: --exclusive
# flux: --time-limit=260m
# flux: --output=/project/fept/runs/paper/jobs/{{id}}.txt
# flux: --bank=abc123

out=/project/fept/runs/paper
cd /project/fept || exit 2

export PATH=/project/venv/bin:$PATH

python -m hydragnn_hpc.submit.chain begin "$out" || exit
flux run -N 1 -n 4 -c 24 -g 1 \
  hydragnn-hpc run /project/fept/paper.yaml /project/fept/runs/paper --set training.epochs=100 \
  --time-limit "$((15600 - SECONDS - 180))s"
# The members' files decide what follows: all done, or the same again (75).
python -m hydragnn_hpc.submit.chain end "$out" "$?" --runs 50
code=$?
if [ "$code" -eq 75 ]; then
  flux --parent batch /project/fept/runs/paper/jobs/job.sh
fi
exit "$code"

