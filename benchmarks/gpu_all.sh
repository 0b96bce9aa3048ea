#!/bin/sh
# All figures of a GPU in about six minutes, the most valuable first; each step has its own limit and its own file.
#
#     sh benchmarks/gpu_all.sh OUT        # from the root of a clone; needs torch with CUDA, triton, transformers, peft, onnx
#
# A machine without a network needs the wheels of pydantic, pydantic-core, annotated-types and typing-inspection.
out=${1:?folder for the results}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
golden=tests/data/golden

step() { # name, seconds, command...
    name=$1 limit=$2 begin=$(date +%s)
    shift 2
    timeout "$limit" "$@" >"$out/$name.txt" 2>&1
    echo "== $name: exit code $?, $(($(date +%s) - begin)) s"
    tail -n 25 "$out/$name.txt" | cut -c 1-300
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
step stages 200 "$python" benchmarks/gpu.py
step train 120 "$python" benchmarks/gpu_train.py
step export 90 "$python" -m sdk export $golden/llava-lora-emola-trained "$out/bundle" --base $golden/llava-base \
    --vision-tower $golden/clip --quantize none --device cuda
step verify 30 "$python" -m sdk verify "$out/bundle" --device cpu
step sweep 150 "$python" benchmarks/gpu.py --sweep
rm -rf "$out/bundle" "$out/bundle.work"
