#!/usr/bin/env bash
# Everything that is measured on one GPU, in under 8 minutes, without network: the race of the
# training step over batch sizes, translation, and the tests that need a GPU.
#
#   OUT=results benchmarks/gpu.sh              # on a machine with medxlate's requirements
#   WHEELS=wheels OUT=results benchmarks/gpu.sh    # packages that are missing come from a folder
#   DEVICE=cpu QUICK=1 benchmarks/gpu.sh       # tries the script itself, in seconds
#
# Writes $OUT/training-*.json, $OUT/translate.json, $OUT/tests.txt and $OUT/summary.json. A part that
# fails or runs out of time is named in the summary; the others are still measured.
set -u
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:-bench-out}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" "$WHEELS"/*.whl ||
        echo "Some wheels in $WHEELS were not installed."
fi
size=(--steps 7)
# Of torchvision's transforms, FID and DICOM nothing is needed for the race.
if [ -n "${QUICK:-}" ]; then
    size=(--image-size 32 --blocks 1 --width 8 --predictor test_resnet --steps 2 --warm 1)
fi
parts=()
part() { # name, seconds, command...
    local name=$1 limit=$2 began=$SECONDS code=0
    shift 2
    timeout "$limit" "$@" >"$OUT/$name.txt" 2>&1 || code=$?
    parts+=("{\"part\": \"$name\", \"code\": $code, \"seconds\": $((SECONDS - began))}")
    echo "$name: exit $code after $((SECONDS - began)) s"
}

race=("$PYTHON" -m benchmarks.training --device "$DEVICE" --no-profile "${size[@]}")
# Batch 1 against the reference at its default settings, with what `train` would choose.
part training-batch-1 150 "${race[@]}" --precision bf16 --compile on --batch-sizes 1 \
    --out "$OUT/training-batch-1.json"
# The best batch; the textbook is not raced again above 8.
part training-batches 210 "${race[@]}" --precision bf16 --compile on --batch-sizes 4 16 32 \
    --seconds 150 --textbook-up-to 4 --out "$OUT/training-batches.json"
part training-eager 40 "${race[@]}" --precision bf16 --compile off --batch-sizes 1 \
    --out "$OUT/training-eager.json"
translate=(-m benchmarks.translate --device "$DEVICE" --slices 200 --out "$OUT/translate.json")
[ -n "${QUICK:-}" ] && translate+=(--quick)
part translate 40 "$PYTHON" "${translate[@]}"
part tests 40 "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_stepper.py tests/test_step.py tests/test_inference.py -k "gpu or captured or cuda"

(IFS=,; echo "{\"device\": \"$DEVICE\", \"parts\": [${parts[*]}]}") >"$OUT/summary.json"
cat "$OUT/summary.json"
