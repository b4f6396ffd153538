#!/bin/bash
# One refinement on several machines under SLURM. Change the lines marked with <-, then: sbatch slurm.sh
# If the job ends before the refinement does (time, a lost machine), submit it again: it goes on where it stood, also
# with another number of machines or processes.
#
#SBATCH --job-name=halfmap
#SBATCH --nodes=4                 # <- machines
#SBATCH --ntasks-per-node=1       # torchrun starts the processes of a machine
#SBATCH --cpus-per-task=64        # <- cores of a machine
#SBATCH --mem=0                   # all memory of a machine
#SBATCH --time=12:00:00           # <-
#SBATCH --output=halfmap-%j.log
##SBATCH --gpus-per-node=4        # <- with GPUs: one # less here, and PROCESSES as many
set -eu

PROCESSES=8                       # <- on each machine: one for each GPU, or one for 4 to 16 cores
RUN=run1                          # <- folder of the run, on a disk that all machines see, as are the images
REFINE=(particles.star --map initial.mrc --diameter 170 --symmetry C1 --regulariser nonuniform)    # <-

if [ -e "$RUN/checkpoint/state" ]; then
    words=(resume "$RUN")
else
    words=(refine "${REFINE[@]}" --out "$RUN")
fi
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Where machines have several networks: export GLOO_SOCKET_IFNAME=ib0 (and NCCL_SOCKET_IFNAME with GPUs).
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \
    torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$PROCESSES" --max-restarts=0 \
        --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 20000))" \
        -m halfmap "${words[@]}"
