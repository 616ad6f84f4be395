#!/usr/bin/env bash
# One Ray cluster inside a Slurm allocation: a coordinator on the first node, an actor per GPU.
#   sbatch docs/deploy/slurm-ray.sh run.toml
#SBATCH --job-name=discl-ray
#SBATCH --nodes=4
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@60
set -euo pipefail
config=$1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --nodes=1 --ntasks=1 -w "$head" ray start --head --port=6379 --block &
until ray status --address "$head:6379" > /dev/null 2>&1; do sleep 2; done
srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
    ray start --address "$head:6379" --block &
discl generate "$config" --ray "$head:6379" --actors 1-32 &
run=$!
trap 'kill -TERM "$run"' TERM
wait "$run" || wait "$run" # the signal ends the first one, and sealing takes a while
