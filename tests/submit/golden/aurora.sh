#!/bin/bash
#PBS -N fept
#PBS -l walltime=1:30:00
#PBS -j oe
#PBS -o /project/fept/runs/paper/jobs/
#PBS -r y
#PBS -A abc123
#PBS -q prod
#PBS -l select=1
#PBS -l place=scatter
#PBS -l filesystems=home:flare

out=/project/fept/runs/paper
cd /project/fept || exit 2

export PATH=/project/venv/bin:$PATH
export HYDRAGNN_HPC_ROOT=/project/hydragnn_hpc
. "$HYDRAGNN_HPC_ROOT/envs/aurora.sh"
export ZE_FLAT_DEVICE_HIERARCHY=FLAT
export MPIR_CVAR_ENABLE_GPU=0

# -P: no module of the campaign's folder, such as a user's random.py, is imported.
python -P -m hydragnn_hpc.submit.chain begin "$out" || exit
# The set-up may have taken so long that nothing can be trained any more: then all is left to the next job.
left=$((5400 - SECONDS - 180))
launched=75
if [ "$left" -gt 5 ]; then
  mpiexec -n 12 -ppn 12 --cpu-bind list:1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100 \
    bash -c 'export ZE_AFFINITY_MASK="$PALS_LOCAL_RANKID"; exec "$@"' rank \
    hydragnn-hpc run /project/fept/paper.yaml /project/fept/runs/paper --set training.epochs=100 --require-gpu \
    --time-limit "${left}s"
  launched=$?
fi
# The members' files decide what follows: 75 to run again, any other code to end the chain.
python -P -m hydragnn_hpc.submit.chain end "$out" "$launched" --runs 50 --late "$((left < 2700))"
code=$?
if [ "$code" -eq 75 ]; then
  # A job with another number is recorded for 'hydragnn-hpc status'.
  {
    qsub /project/fept/runs/paper/jobs/job.sh
  } | python -P -m hydragnn_hpc.submit.chain record "$out"
fi
exit "$code"

