#!/usr/bin/env bash
# Trains every run on the test set that results/runs.csv has, in order, and records each there.
#
#     bash experiments/published.sh                              # on two CPU cores: days
#     bash experiments/published.sh --dataset data/cifar10.npz   # data and device for every run
#
# The command can be repeated at any time: train.py resumes a run that was stopped, and draws the
# pictures of a finished one again. The plain script begins anew.
set -euo pipefail
cd "$(dirname "$0")/.."

train() { # FOLDER FLAG...
  local out=runs/$1
  shift
  if [ -f "$out/last.pt" ]; then
    python train.py "$@" --out "$out" --resume
  else
    python train.py "$@" --out "$out"
  fi
  python -m experiments.record "$out"
}

for seed in 0 1 2; do
  train "net-25-seed$seed" --seed "$seed" "$@"
  train "net-25-half-augmentation-seed$seed" --affine-p 0.25 --hole-p 0.25 --seed "$seed" "$@"
  train "residual-25-seed$seed" --model ResidualNet --augment device --precision bfloat16 \
    --seed "$seed" "$@"
done
train wide-25-seed0 --width 1.5 --augment device "$@"
for seed in 0 1; do
  train "net-100-seed$seed" --epochs 100 --seed "$seed" "$@"
done

# a teacher, and the runs with it
train residual-75-seed0 --model ResidualNet --augment device --epochs 75 "$@"
for seed in 0 1 2; do
  train "net-25-taught-seed$seed" --teacher runs/residual-75-seed0/best.pt --seed "$seed" "$@"
done

# the time to 85 %, without other work on the machine
train net-7-seed0 --epochs 7 "$@"
for seed in 0 1 2; do
  train "net-8-seed$seed" --epochs 8 --seed "$seed" "$@"
done
for seed in 0 1; do
  python -m experiments.plain --epochs 40 --seed "$seed" "$@"
done
