#!/usr/bin/env bash
# What codecs do to students: several hundred classes of characters, a teacher, its raw logits over eight views of every image,
# and students from every codec, five runs each. Ends with the table of docs/results/codecs.md.
#
#   examples/characters.sh [OUT]                           by default: characters-runs
#
# Needs: kdcache installed, the fonts of characters.py (its head says how), 2 CPU cores, 4 GB of memory, 1 GB of disk under OUT.
# Takes: about 50 minutes on two cores. Run it again after an interruption: what is done is not done again.
set -euo pipefail

out=${1:-characters-runs}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" # characters.py, characters_models.py
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mkdir -p "$out"
cd "$out"

train=characters:load,root=data,split=train
test=characters:load,root=data,split=test
teacher=characters_models:teacher,mean=0.06,std=0.17
settings=(--config "$here/characters_settings.toml")

[[ -f data/test.npz ]] || python "$here/characters.py" data

# seeds 100 to 109: the teacher is trained on other views than the students will see
kdcache train-student teacher "${settings[@]}" --data "$train" --eval-data "$test" --student "$teacher" --loss ce \
    --recipe "$here/characters.toml" --seeds 100:110 --epochs 10
kdcache dump-teacher cache "${settings[@]}" --data "$train" --teacher "$teacher,weights=teacher/student.safetensors" \
    --recipe "$here/characters.toml" --codec full:dtype=float32

study=(python "$here/../benchmarks/training_study.py" --data "$train" --eval-data "$test" --cache cache --out study)
study+=(--student characters_models:student,mean=0.06,std=0.17)
"${study[@]}" --runs 0 2 4 > /dev/null &
"${study[@]}" --runs 1 3 > /dev/null
wait
"${study[@]}"
