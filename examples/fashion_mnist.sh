#!/usr/bin/env bash
# Fashion-MNIST from end to end: train a teacher, dump its logits as two caches, and train the same small student four ways,
# three runs each, with no teacher in sight. Ends with a table.
#
#   examples/fashion_mnist.sh [DATA [OUT]]                 by default: data, fashion-runs
#   RUN_SEEDS="0" examples/fashion_mnist.sh data out       one run of each student instead of three
#
# Needs: kdcache installed, 2 CPU cores, 2 GB of memory, 20 MB of disk under OUT. No GPU; with one, it is used.
# Takes: 30 minutes of CPU time in all, spread over the cores; docs/results.md has the times and the table.
# Run it again after an interruption, or with more RUN_SEEDS: every command goes on where it stopped. Settings that were changed
# between the two are refused; take a new OUT for them.
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
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" # fashion_models.py
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"       # the loader's two processes need the cores more than torch's threads do

if [[ ! -f $data/FashionMNIST/raw/train-images-idx3-ubyte ]]; then
    echo "no Fashion-MNIST in $data/FashionMNIST/raw; the head of $0 says how to get it" >&2
    exit 1
fi
train="torchvision:FashionMNIST,root=$data,train=true"
test="torchvision:FashionMNIST,root=$data,train=false"
pixels="mean=0.286,std=0.353" # of Fashion-MNIST
settings=(--config "$here/fashion_mnist.toml" --data "$train")
recipe=(--recipe "$here/fashion.toml")

step() { # say what runs, and run it; results go to the run's folder, not to the terminal
    echo "kdcache $*" >&2
    kdcache "$@" > /dev/null
}

mkdir -p "$out"

step train-student "$out/teacher" "${settings[@]}" "${recipe[@]}" --eval-data "$test" \
    --student "fashion_models:teacher,$pixels" --loss ce --epochs 6 --seeds 100:106 # not the views that are dumped

for codec in full:dtype=float16 topk:k=3; do
    cache=$out/cache-${codec%%:*}
    step dump-teacher "$cache" "${settings[@]}" "${recipe[@]}" --codec "$codec" \
        --teacher "fashion_models:teacher,$pixels,weights=$out/teacher/student.safetensors"
    kdcache info "$cache" --json > "$cache.json"
done

student() { # student NAME LOSS CACHE RUN_SEED
    step train-student "$out/$1-$4" "${settings[@]}" --cache "$out/cache-$3" --eval-data "$test" \
        --student "fashion_models:student,$pixels" --loss "$2" --epochs 4 --run-seed "$4"
}

for seed in "${run_seeds[@]}"; do
    student labels ce full "$seed"
    student kl-full kl:tau=4 full "$seed"
    student dist-full dist:tau=4,beta=2,gamma=2 full "$seed"
    student dist-topk dist:tau=4,beta=2,gamma=2 topk "$seed"
done

python "$here/summarise.py" "$out"
