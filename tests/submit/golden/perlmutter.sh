#!/bin/bash
#SBATCH --job-name=fept
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=2:20:00
#SBATCH --output=/project/fept/runs/paper/jobs/%j.txt
#SBATCH --open-mode=append
#SBATCH --requeue
# Ranks stop by the time limit below; USR2 (NCCL uses USR1) stops those that do not. Slurm may send it a minute early.
#SBATCH --signal=USR2@90
#SBATCH --account=abc123
#SBATCH --constraint=gpu
#SBATCH --qos=regular
#SBATCH --gpus-per-node=4

out=/project/fept/runs/paper
cd /project/fept || exit 2

export PATH=/project/venv/bin:$PATH
export HYDRAGNN_HPC_ROOT=/project/hydragnn_hpc
. "$HYDRAGNN_HPC_ROOT/envs/perlmutter.sh"
export MPICH_GPU_SUPPORT_ENABLED=0

# -P: no module of the campaign's folder, such as a user's random.py, is imported.
python -P -m hydragnn_hpc.submit.chain begin "$out" || exit
# The set-up may have taken so long that nothing can be trained any more: then all is left to the next job.
left=$((8400 - SECONDS - 180))
launched=75
if [ "$left" -gt 5 ]; then
  srun --nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=32 --cpu-bind=cores --gpus-per-task=1 --wait=0 --kill-on-bad-exit=0 \
    hydragnn-hpc run /project/fept/paper.yaml /project/fept/runs/paper --set training.epochs=100 --require-gpu \
    --time-limit "${left}s"
  launched=$?
fi
# The members' files decide what follows: 75 to run again, any other code to end the chain.
python -P -m hydragnn_hpc.submit.chain end "$out" "$launched" --runs 50 --late "$((left < 4200))"
code=$?
if [ "$code" -eq 75 ]; then
  # A job with another number is recorded for 'hydragnn-hpc status'.
  {
    scontrol requeue "$SLURM_JOB_ID" || sbatch --parsable /project/fept/runs/paper/jobs/job.sh
  } | python -P -m hydragnn_hpc.submit.chain record "$out"
fi
exit "$code"

