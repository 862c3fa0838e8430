#!/usr/bin/env bash
# The DIST paper's CIFAR settings from end to end, on data that is quick to get: Fashion-MNIST at 32x32, from a ResNet-20 to a
# ResNet-8. Trains the teacher, dumps its logits, and trains the student three ways, three runs each, with no teacher in sight.
# Ends with a table.
#
#   examples/fashion_mnist.sh [DATA [OUT]]                 by default: data, fashion-runs
#   RUN_SEEDS="0" examples/fashion_mnist.sh data out       one run of each student instead of three
#
# Needs: kdcache installed, 2 CPU cores, 2 GB of memory, 20 MB of disk under OUT. No GPU; with one, it is used.
# docs/results/fashion.md has the times and the table. Run it again after an interruption, or with more RUN_SEEDS: every command goes on
# where it stopped. Settings that were changed between the two are refused; take a new OUT for them.
#
# DATA holds FashionMNIST/raw/train-images-idx3-ubyte and the three other files of the set, unpacked, where torchvision looks for
# them. If they are not there yet, let torchvision fetch them:
#   python -c "from torchvision.datasets import FashionMNIST; FashionMNIST('data', download=True)"
# (a command of kdcache does the same for a spec with torchvision:FashionMNIST,root=data,train=true,download=true), or on Debian:
#   apt-get install dataset-fashion-mnist; mkdir -p data/FashionMNIST/raw
#   cp /usr/share/datasets/fashion-mnist/*.gz data/FashionMNIST/raw; gunzip data/FashionMNIST/raw/*.gz
set -euo pipefail

data=${1:-data}
out=${2:-fashion-runs}
read -ra run_seeds <<< "${RUN_SEEDS:-0 1 2}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # the loader's process needs the other core

if [[ ! -f $data/FashionMNIST/raw/train-images-idx3-ubyte ]]; then
    echo "no Fashion-MNIST in $data/FashionMNIST/raw; the head of $0 says how to get it" >&2
    exit 1
fi
train="torchvision:FashionMNIST,root=$data,train=true"
test="torchvision:FashionMNIST,root=$data,train=false"
pixels="mean=0.286,std=0.353" # of Fashion-MNIST
settings=(--config cifar --workers 1 --set compute.channels_last=true --data "$train")

step() { # say what runs, and run it; results go to the run's folder, not to the terminal
    echo "kdcache $*" >&2
    kdcache "$@" > /dev/null
}

mkdir -p "$out"

step train-student "$out/teacher" "${settings[@]}" --recipe "$here/fashion.toml" --eval-data "$test" --seeds 100:105 \
    --student "cifar:resnet20,$pixels" --loss ce --epochs 5 --batch-size 128 \
    --set "schedule.decay_milestones=[3, 4]" # seeds that are not dumped

step dump-teacher "$out/cache" "${settings[@]}" --recipe "$here/fashion.toml" --seeds 0:4 --codec full:dtype=float16 \
    --teacher "cifar:resnet20,$pixels,weights=$out/teacher/student.safetensors"
kdcache info "$out/cache" --json > "$out/cache.json"

student() { # student NAME LOSS RUN_SEED: a sixth of the images, a fifteenth of the paper's epochs, the rate falls as there
    step train-student "$out/$1-$3" "${settings[@]}" --cache "$out/cache" --eval-data "$test" --run-seed "$3" \
        --student "cifar:resnet8,$pixels" --loss "$2" --epochs 16 --set samples=0:10000 \
        --set "schedule.decay_milestones=[10, 12, 14]"
}

for seed in "${run_seeds[@]}"; do
    student labels ce "$seed"
    student kl kl:tau=4 "$seed"
    student dist dist:tau=4,beta=2,gamma=2 "$seed"
done

python "$here/summarise.py" "$out"
