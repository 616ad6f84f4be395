#!/usr/bin/env bash
# A job array without Ray: every task makes a part in a store of its own; a requeued task goes on where it stopped.
#   sbatch docs/deploy/slurm-array.sh run.toml /shared/spectrum
# and when all are done:
#   discl store merge /shared/spectrum.part-* --into /shared/spectrum && discl store compact /shared/spectrum
#SBATCH --job-name=discl
#SBATCH --array=0-31
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
set -euo pipefail
config=$1 store=$2
exec discl generate "$config" \
    --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --out "$store.part-$SLURM_ARRAY_TASK_ID"
