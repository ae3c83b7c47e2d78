#!/bin/bash
# A run on several machines with SLURM, all GPUs of each; the arguments are those of the run script.
#
#   sbatch configs/accelerate/slurm.sh configs/t5_small.yaml --data dialogues_text.txt --save_strategy steps --eval_strategy steps --save_steps 500 --eval_steps 500
#   sbatch --nodes 1 --export=ALL,ACCELERATE_CONFIG=configs/accelerate/fsdp.yaml configs/accelerate/slurm.sh configs/t5_small.yaml ...
#
# Submit it from the repository's folder, which all machines see. A job that is preempted, loses a
# machine or comes to the end of its time is queued again and goes on from its last checkpoint; it
# fails, with a status other than 0, when any process of the run does.
#
# To change: what follows, and the line that makes the environment ready.
#SBATCH --job-name=dialogue
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1     # a launcher, which starts a process for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:USR1@120     # two minutes before the time is up
set -euo pipefail

source .venv/bin/activate

export MASTER_ADDR MASTER_PORT
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export PROCESSES=$((SLURM_NNODES * SLURM_GPUS_ON_NODE))
export ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-configs/accelerate/machines.yaml}

trap 'echo "The time is up: queued again."; scontrol requeue "$SLURM_JOB_ID"' USR1

# In the background, or bash would wait for its end before it hears the signal. A launcher that
# fails takes the others along; each knows its rank from SLURM_NODEID.
srun --kill-on-bad-exit=1 bash -c '
  exec accelerate launch --config_file "$ACCELERATE_CONFIG" \
    --num_machines "$SLURM_NNODES" --num_processes "$PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" --same_network \
    run_seq2seq_dialog.py "$@"' launch "$@" &
status=0
wait $! || status=$?
exit $status
