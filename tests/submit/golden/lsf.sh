#!/bin/bash
#BSUB -J fept
#BSUB -W 260
#BSUB -o /project/fept/runs/paper/jobs/%J.txt
# LSF puts the job back into the queue when it exits with 75.
#BSUB -Q "75"
#BSUB -wa USR2
#BSUB -wt 3
#BSUB -P abc123
#BSUB -n 4
#BSUB -R "span[ptile=4] affinity[core(10)]"
#BSUB -gpu "num=4:mode=shared"

out=/project/fept/runs/paper
cd /project/fept || exit 2

export PATH=/project/venv/bin:$PATH

# -P: no module of the campaign's folder, such as a user's random.py, is imported.
python -P -m hydragnn_hpc.submit.chain begin "$out" || exit
# The set-up may have taken so long that nothing can be trained any more: then all is left to the next job.
left=$((15600 - SECONDS - 180))
launched=75
if [ "$left" -gt 5 ]; then
  mpirun -n 4 --map-by ppr:4:node:PE=10 \
    hydragnn-hpc run /project/fept/paper.yaml /project/fept/runs/paper --set training.epochs=100 --require-gpu \
    --time-limit "${left}s"
  launched=$?
fi
# The members' files decide what follows: 75 to run again, any other code to end the chain.
python -P -m hydragnn_hpc.submit.chain end "$out" "$launched" --runs 50 --late "$((left < 7800))"
code=$?
exit "$code"

