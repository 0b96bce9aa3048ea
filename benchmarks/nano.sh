#!/bin/sh
# Make emola-nano, from rendered faces to a bundle. A stage that is done is kept, so a run that was stopped goes on.
#
#     FACE_MODEL=... sh benchmarks/nano.sh build/nano          # what `make nano` calls
#     FACE_MODEL=... sh benchmarks/nano.sh build/nano renders  # the first stage alone
#
# FACE_MODEL: the folder FaceXModel of the ICT-FaceKit repository (MIT), or its light model as one .npz file.
# PYTHON: of an environment with the extras cpu, train, synthetic and export; default python3.
# FACES, PORTRAITS: how many faces to train on, and how many portraits to finish with; default 40000 and 6000.
#   The sets for scoring and calibration have 1,000 and 700.
# PRECISION: of the language model; bfloat16 saves time on processors that have it.
# OUT: a folder that gets a copy of each result but the renders as soon as there is one.
# FEW, SOME, CALIBRATION, EMOTIONS, UNITS, QUESTIONS, TOWER_OPTIONS, TRAIN_OPTIONS, LAST_OPTIONS, EXPORT_OPTIONS: for trials, see
#   below.
set -e
nano=${1:?folder for the stages} last=${2:-scores}
python=${PYTHON:-python3} faces=${FACES:-40000} few=${FEW:-1000} some=${SOME:-700}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$nano"

emola() { "$python" -m sdk "$@"; }

keep() { # files and folders below $nano
    if [ -n "$OUT" ]; then
        tar -C "$nano" --exclude "checkpoint-*" -czf "$OUT/$1.tgz" "$@"
    fi
}

finish() { # stage: say how long it took, and end if it is the last one that was asked for
    echo "== $1: $(($(date +%s) - begin)) s"
    begin=$(date +%s)
    if [ "$1" = "$last" ]; then
        exit 0
    fi
}

renders() { # set, number, seed, split, and further options
    set=$1 number=$2 seed=$3 split=$4
    shift 4
    [ -e "$nano/$set" ] || emola data synthesize "$nano/$set" -n "$number" --seed "$seed" --split "$split" \
        --face-model "$FACE_MODEL" --preview "$nano/$set.png" "$@"
}

gpu() { "$python" -c "import torch; raise SystemExit(not torch.cuda.is_available())"; }

begin=$(date +%s)
renders eval "$few" 2 eval
renders calib "$some" 3 eval
renders train "$faces" 1 train
renders portraits "${PORTRAITS:-6000}" 4 train --portraits
finish renders

if [ ! -e "$nano/base" ]; then
    # A GPU waits for the processor in small steps.
    options=
    if gpu; then options="--batch-size 128 --learning-rate 2.8e-3"; fi
    emola pretrain "$nano/train" "$nano/base" --eval "$nano/eval" $options ${TOWER_OPTIONS}
    keep base
fi
finish base

# Each face has one landmark file and is in the file of action units.
for annotations in train/train portraits/train eval/eval calib/eval; do
    marker=$nano/${annotations%/*}.landmarks
    if [ ! -e "$marker" ]; then
        emola data landmarks "$nano/${annotations}_au_anno.json" --replace --face-scale 1.5 --threads "$(nproc)" \
            --network "$nano/base/landmark.onnx"
        touch "$marker"
    fi
done
finish landmarks

train() { # base, output, sets, and further options
    base=$1 output=$2 sets=$3 workers=1
    shift 3
    for each in $sets; do
        for kind in au emotion question; do
            set -- "$@" --data "$nano/$each/train_${kind}_anno.json"
        done
    done
    if gpu; then workers=$(($(nproc) - 2)); fi
    emola train --base "$nano/$base" --output "$nano/$output" --tune everything --batch-size 64 --weight-decay 0.02 \
        --precision "${PRECISION:-auto}" --keep-visual 0.25 --prior-only 0.15 --no-checkpointing --no-group-by-length \
        --workers "$workers" "$@"
    keep "$output"
}

if [ ! -e "$nano/model/emola.json" ]; then
    train base model train --epochs 1.4 --learning-rate 2e-3 --projector-learning-rate 5e-4 ${TRAIN_OPTIONS}
fi
finish model

if [ ! -e "$nano/finished/emola.json" ]; then
    # Two of five records are of portraits, and would otherwise be one in seven.
    train model finished "train portraits portraits portraits portraits" --max-steps 450 --learning-rate 1e-3 \
        --projector-learning-rate 5e-4 ${LAST_OPTIONS}
fi
finish finished

if [ -e "$nano/emola-nano" ] && [ "$nano/finished/emola.json" -nt "$nano/emola-nano/manifest.json" ]; then
    echo "$nano/emola-nano was exported before the model was finished: move it and scores-* away, and start again" >&2
    exit 1
fi
if [ ! -e "$nano/emola-nano" ]; then
    emola export none "$nano/emola-nano" --base "$nano/finished" --landmark-model "$nano/base/landmark.onnx" \
        --quantize gptq --group-size 64 --calibration "$nano/train/train_au_anno.json" -n "${CALIBRATION:-256}" \
        --answers "$nano"/train/train_*_anno.json \
        --label-data emotion "$nano/calib/eval_emotion_anno.json" --label-data action_units "$nano/calib/eval_au_anno.json" \
        --evaluation "$nano/eval/eval_emotion_anno.json" --limit "${EMOTIONS:-403}" ${EXPORT_OPTIONS}
    keep emola-nano
fi
finish bundle

for task in "emotion ${EMOTIONS:-403}" "au ${UNITS:-325}"; do
    set -- $task
    emola evaluate "$nano/emola-nano" --data "$nano/eval/eval_$1_anno.json" --task "$1" --limit "$2" \
        --output "$nano/scores-$1"
done
"$python" benchmarks/nano_questions.py "$nano/eval/eval_question_anno.json" --bundle "$nano/emola-nano" \
    --limit "${QUESTIONS:-400}" > "$nano/scores-question.txt" # no pipe to tee, which would hide a failure
cat "$nano/scores-question.txt"
keep scores-emotion scores-au scores-question.txt
finish scores
