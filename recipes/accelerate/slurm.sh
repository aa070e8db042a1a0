#!/bin/bash
# Two nodes of eight GPUs under Slurm: sbatch recipes/accelerate/slurm.sh STAGE RECIPE.yaml [--any_option value]
# From the checkout's root, on a disk that both nodes see. Another engine: ENGINE=zero3 sbatch ...
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --output=%x-%j.log
set -euo pipefail
STAGE=$1 RECIPE=$2
shift 2
export HOST PORT=29500 ENGINE=${ENGINE:-two-nodes} STAGE RECIPE
NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
HOST=${NODES%%$'\n'*}
# The node's own number is known only in its task; further options come as $1, $2, ...
srun --kill-on-bad-exit=1 bash -c 'exec .venv/bin/accelerate launch --config_file "recipes/accelerate/$ENGINE.yaml" \
    --num_machines "$SLURM_NNODES" --num_processes $((8 * SLURM_NNODES)) --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$HOST" --main_process_port "$PORT" --deepspeed_multinode_launcher standard \
    -m "$STAGE" --config "$RECIPE" "$@"' launcher "$@"
