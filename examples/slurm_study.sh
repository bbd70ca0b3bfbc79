#!/bin/bash
# Runs a study as a Slurm array. Every task of the array runs one part of the study on one GPU.
#
#   sbatch examples/slurm_study.sh magnitude --model qwen3.5 --grader openai/gpt-4o
#
# To change the number of parts: sbatch --array=1-8 examples/slurm_study.sh ...
#SBATCH --job-name=steering
#SBATCH --array=1-4
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
set -euo pipefail

factor=$1
shift
logs=${STEERING_LOGS:-logs/shards}
# If the tasks share a file system, each vector is built once, by the first task that locks it.
export STEERING_CACHE=${STEERING_CACHE:-$PWD/$logs/cache}

steering study "$factor" "$@" \
	--shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
	--log-dir "$logs/$factor-$SLURM_ARRAY_TASK_ID" \
	--display plain

# After all tasks have ended:
#   mkdir -p logs/studies/magnitude
#   cp -r logs/shards/magnitude-*/. logs/studies/magnitude
#   steering report logs/studies/magnitude
