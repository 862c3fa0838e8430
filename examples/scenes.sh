#!/usr/bin/env bash
# Segmentation from end to end: scenes with exact masks are drawn, a ResNet-10 learns them, its maps of logits are dumped for
# random crops, and a student of a fourteenth of its size is trained five ways, three runs each, with no teacher in sight.
# Ends with a table.
#
#   examples/scenes.sh [OUT]                               by default: scenes-runs
#   RUN_SEEDS="0" examples/scenes.sh out                   one run of each student instead of three
#
# Needs: kdcache[demo] installed, 2 CPU cores, 3 GB of memory, 300 MB of disk under OUT. No GPU; with one, it is used.
# docs/results/segmentation.md has the times and the table. Run it again after an interruption, or with more RUN_SEEDS: every command goes on
# where it stopped. Settings that were changed between the two are refused; take a new OUT for them.
set -euo pipefail

out=${1:-scenes-runs}
read -ra run_seeds <<< "${RUN_SEEDS:-0 1 2}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scenes=$out/scenes
test="segfolder:$scenes/test,classes=$scenes/classes.txt"
data=(--data "segfolder:$scenes/train,classes=$scenes/classes.txt" --workers 0
    --set compute.channels_last=true --set compute.precision=bfloat16)
learning=("${data[@]}" --eval-data "$test" --batch-size 16 --set optimizer.name=adamw --set optimizer.lr=2e-3
    --set optimizer.weight_decay=0.05 --set schedule.name=cosine --set schedule.warmup_epochs=1)

step() { # say what runs, and run it; results go to the run's folder, not to the terminal
    echo "kdcache $*" >&2
    kdcache "$@" > /dev/null
}

mkdir -p "$out"
python "$here/scenes.py" "$scenes"

step train-student "$out/teacher" "${learning[@]}" --recipe "$here/scenes.toml" --seeds 100:116 --epochs 16 \
    --student timm:resnet10t,output_stride=8 --loss ce # seeds that are not dumped

step dump-teacher "$out/cache" "${data[@]}" --recipe "$here/scenes.toml" --seeds 0:4 --codec full:dtype=float16 \
    --teacher "timm:resnet10t,output_stride=8,weights=$out/teacher/student.safetensors"
step recode "$out/cache" "$out/lowrank" --codec lowrank:step=1
kdcache info "$out/cache" --json > "$out/cache.json"

student() { # student NAME LOSS CACHE RUN_SEED: half of the scenes
    step train-student "$out/$1-$4" "${learning[@]}" --cache "$3" --run-seed "$4" --set samples=0:500 --epochs 12 \
        --student timm:test_resnet,output_stride=8 --loss "$2"
}

for seed in "${run_seeds[@]}"; do
    student labels ce "$out/cache" "$seed"
    student kl kl:tau=1 "$out/cache" "$seed"
    student cwd cwd:tau=4,weight=3 "$out/cache" "$seed"
    student dist dist:tau=1,beta=1,gamma=1 "$out/cache" "$seed"
    student lowrank dist:tau=1,beta=1,gamma=1 "$out/lowrank" "$seed"
done

python "$here/summarise.py" "$out"
