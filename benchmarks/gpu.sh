#!/usr/bin/env bash
# Everything that one GPU has to show, in under 7 minutes, without network: first the tests that need
# one, then the race of the training step at batch 1 and the best batch, each with a profile, then
# translation from files to files.
#
#   OUT=results benchmarks/gpu.sh                  # on a machine with medxlate's requirements
#   WHEELS=wheels OUT=results benchmarks/gpu.sh    # packages that are missing come from a folder
#   DEVICE=cpu QUICK=1 benchmarks/gpu.sh           # tries the script itself, with tiny networks
#
# Writes six files: $OUT/gpu.json, which sums up what is known so far and is written anew after every
# part, $OUT/log.txt with what the parts printed, and the parts' figures: race.json, batches.json,
# best.json and translate.json. Each part is a process of its own, so that none can spoil the next,
# and writes each figure as soon as it exists. What to carry where packages are missing:
#
#   pip download --only-binary :all: --no-deps --python-version 3.12 --dest wheels \
#       --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
#       --platform manylinux2014_x86_64 --requirement benchmarks/gpu-wheels.txt
set -u
cd "$(dirname "$0")/.." || exit 0
OUT=${OUT:-bench-out}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
BUDGET=${BUDGET:-400} # seconds, after which nothing is begun
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: >"$OUT/log.txt"
(cd "$OUT" && rm -f gpu.json race.json batches.json best.json translate.json) # of an earlier run
if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$scratch/site" \
        "$WHEELS"/*.whl >>"$OUT/log.txt" 2>&1 || echo "Some wheels in $WHEELS were not installed."
    export PYTHONPATH="$PYTHONPATH:$scratch/site"
fi

: >"$scratch/parts"
part() { # name, most seconds, command...
    local name=$1 limit=$2 began=$SECONDS code=0 left=$((BUDGET - SECONDS))
    shift 2
    if [ "$left" -lt 15 ]; then
        echo "$name left-out 0" >>"$scratch/parts"
    else
        timeout -k 5 "$((left < limit ? left : limit))" "$@" >"$scratch/$name.txt" 2>&1 || code=$?
        echo "$name $code $((SECONDS - began))" | tee -a "$scratch/parts"
        { echo "== $name: $*"; cat "$scratch/$name.txt"; } >>"$OUT/log.txt"
    fi
    "$PYTHON" benchmarks/gpu_summary.py "$OUT" "$scratch" >"$scratch/summary.txt" 2>&1 \
        || cat "$scratch/summary.txt" >>"$OUT/log.txt"
}

sizes=(--block 5 --warm 2)
compile=on
batches=(4 8 16 32 64)
translate=(--slices 2000 --rounds 3)
if [ -n "${QUICK:-}" ]; then
    sizes=(--image-size 64 --blocks 1 --width 8 --predictor test_resnet --block 2 --warm 1 --steps 2)
    compile=off
    batches=(2 4)
    translate=(--quick)
fi
train() { # name, most seconds, file, options...
    local name=$1 limit=$2 file=$3
    shift 3
    part "$name" "$limit" "$PYTHON" -m benchmarks.training --device "$DEVICE" --precision bf16 \
        "${sizes[@]}" --out "$OUT/$file.json" "$@"
}

part tests 150 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu tests/cuda/test_on_a_gpu.py \
    tests/training/test_loader.py tests/base/test_grey_levels.py
train race 110 race --compile "$compile"
# Which batch is best shows without compiling; then that one, compiled.
train batches 60 batches --compile off --no-profile --only medxlate --batch-sizes "${batches[@]}"
best=$("$PYTHON" benchmarks/gpu_summary.py best "$OUT/batches.json" 2>>"$OUT/log.txt") || best=${batches[1]}
train best 100 best --compile "$compile" --only medxlate --batch-sizes "$best"
part translate 70 "$PYTHON" -m benchmarks.translate --device "$DEVICE" "${translate[@]}" \
    --out "$OUT/translate.json"
[ -f "$OUT/gpu.json" ] || echo '{"error": "no summary"}' >"$OUT/gpu.json"
cat "$OUT/gpu.json"
exit 0
