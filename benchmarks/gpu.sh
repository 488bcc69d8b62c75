#!/usr/bin/env bash
# Everything that is measured on one GPU, in under 8 minutes, without network: the race of the
# training step at batch 1, medxlate's at larger batches, translation from files to files, a profile,
# and the tests that need a GPU.
#
#   OUT=results benchmarks/gpu.sh                  # on a machine with medxlate's requirements
#   WHEELS=wheels OUT=results benchmarks/gpu.sh    # packages that are missing come from a folder
#   DEVICE=cpu QUICK=1 benchmarks/gpu.sh           # tries the script itself, with tiny networks
#
# Writes $OUT/training-*.json, $OUT/translate.json and, always, $OUT/gpu.json, which sums them up and
# names the parts that failed, ran out of time or were left out; what they printed is in $OUT/logs.
# Each part is a process of its own, so that none can spoil the next.
set -u
cd "$(dirname "$0")/.." || exit 0
OUT=${OUT:-bench-out}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
BUDGET=${BUDGET:-440} # seconds, after which nothing is begun
mkdir -p "$OUT/logs"
OUT=$(cd "$OUT" && pwd)
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" \
        "$WHEELS"/*.whl || echo "Some wheels in $WHEELS were not installed."
    export PYTHONPATH="$PYTHONPATH:$site"
fi

: >"$OUT/logs/parts"
part() { # name, most seconds, command...
    local name=$1 limit=$2 began=$SECONDS code=0 left=$((BUDGET - SECONDS))
    shift 2
    if [ "$left" -lt 15 ]; then
        echo "$name left-out 0" >>"$OUT/logs/parts"
        return
    fi
    timeout -k 5 "$((left < limit ? left : limit))" "$@" >"$OUT/logs/$name.txt" 2>&1 || code=$?
    echo "$name $code $((SECONDS - began))" | tee -a "$OUT/logs/parts"
}

race=("$PYTHON" -m benchmarks.training --device "$DEVICE" --precision bf16)
sizes=(--block 5 --warm 2)
batches=(16 8 32 4 2 64)
compile=on
translate=(--slices 2000 --rounds 3)
if [ -n "${QUICK:-}" ]; then
    sizes=(--image-size 64 --blocks 1 --width 8 --predictor test_resnet --block 2 --warm 1 --steps 2)
    batches=(2 4)
    compile=off
    translate=(--quick)
fi
train() { # name, most seconds, options...
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "${race[@]}" "${sizes[@]}" --out "$OUT/$name.json" "$@"
}

train training-1 150 --compile "$compile" --no-profile
for batch in "${batches[@]:0:2}"; do
    train "training-$batch" 90 --compile "$compile" --no-profile --only medxlate --batch-sizes "$batch"
done
part translate 60 "$PYTHON" -m benchmarks.translate --device "$DEVICE" "${translate[@]}" \
    --out "$OUT/translate.json"
# shellcheck disable=SC2046
part tests 60 "$PYTHON" -m pytest -q -p no:cacheprovider -k "gpu or cuda or captured" \
    $(grep -l "cuda.is_available" tests/*/test_*.py)
train profile-1 60 --compile "$compile" --steps 1
for batch in "${batches[@]:2}"; do
    train "training-$batch" 90 --compile "$compile" --no-profile --only medxlate --batch-sizes "$batch"
done
train eager-1 45 --compile off --no-profile --only medxlate

"$PYTHON" benchmarks/gpu_summary.py "$OUT" || echo '{"error": "no summary"}' >"$OUT/gpu.json"
exit 0
