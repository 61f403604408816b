#!/bin/bash
#PBS -N fept
#PBS -l walltime=4:20:00
#PBS -j oe
#PBS -o /project/fept/runs/paper/jobs/
#PBS -r y
#PBS -A abc123
#PBS -q preemptable
#PBS -l select=1:system=polaris
#PBS -l place=scatter
#PBS -l filesystems=home:eagle

out=/project/fept/runs/paper
cd /project/fept || exit 2

export PATH=/project/venv/bin:$PATH
export HYDRAGNN_HPC_ROOT=/project/hydragnn_hpc
. "$HYDRAGNN_HPC_ROOT/envs/polaris.sh"
export MPICH_GPU_SUPPORT_ENABLED=0

# -P: no module of the campaign's folder, such as a user's random.py, is imported.
python -P -m hydragnn_hpc.submit.chain begin "$out" || exit
# The set-up may have taken so long that nothing can be trained any more: then all is left to the next job.
left=$((15600 - SECONDS - 180))
launched=75
if [ "$left" -gt 5 ]; then
  mpiexec -n 4 -ppn 4 --depth 8 --cpu-bind depth \
    bash -c 'export CUDA_VISIBLE_DEVICES="$((3 - PMI_LOCAL_RANK % 4))"; exec "$@"' rank \
    hydragnn-hpc run /project/fept/paper.yaml /project/fept/runs/paper --set training.epochs=100 --require-gpu \
    --time-limit "${left}s"
  launched=$?
fi
# The members' files decide what follows: 75 to run again, any other code to end the chain.
python -P -m hydragnn_hpc.submit.chain end "$out" "$launched" --runs 50 --late "$((left < 7800))"
code=$?
if [ "$code" -eq 75 ]; then
  # A job with another number is recorded for 'hydragnn-hpc status'.
  {
    qsub /project/fept/runs/paper/jobs/job.sh
  } | python -P -m hydragnn_hpc.submit.chain record "$out"
fi
exit "$code"

