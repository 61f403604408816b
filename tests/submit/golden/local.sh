#!/bin/bash
# No scheduler: the script runs on this host until done. The wall time ends each run, and the next follows at once.

out=/project/fept/runs/paper
cd /project/fept || exit 2

export PATH=/project/venv/bin:$PATH

# -P: no module of the campaign's folder, such as a user's random.py, is imported.
python -P -m hydragnn_hpc.submit.chain begin "$out" || exit
# The set-up may have taken so long that nothing can be trained any more: then all is left to the next job.
left=$((30600 - SECONDS - 180))
launched=75
if [ "$left" -gt 5 ]; then
  mpirun -n 2 \
    hydragnn-hpc run /project/fept/paper.yaml /project/fept/runs/paper --set training.epochs=100 \
    --time-limit "${left}s"
  launched=$?
fi
# The members' files decide what follows: 75 to run again, any other code to end the chain.
python -P -m hydragnn_hpc.submit.chain end "$out" "$launched" --runs 50 --late "$((left < 15300))"
code=$?
if [ "$code" -eq 75 ]; then
  exec bash /project/fept/runs/paper/jobs/job.sh
fi
exit "$code"

