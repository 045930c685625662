#!/usr/bin/env bash
# The whole path on one GPU, in at most 12 minutes and without a network. Run it in the root of a checkout:
#
#   benchmarks/gpu/run.sh OUTPUT            every family, a trained head, an 8B teacher with a 0.4B student
#   benchmarks/gpu/run.sh OUTPUT cpu tiny   the same steps on a CPU, with tiny shapes: what the tests run
#
# Each step has its log in OUTPUT and a limit of time. The exit status is the number of steps that failed. Texts in
# bfloat16 may differ at near ties, so the families that do stand in the step's table and fail nothing.
set -u
output=${1:?give a folder for the results}
device=${2:-cuda}
size=${3:-8b}
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
wheels="${PYTHON:-python} -m wheels"
mkdir -p "$output"
failed=0

step() { # NAME SECONDS COMMAND...: run a command, and tell how it went
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    [ "$size" = tiny ] && limit=1800 # a test may run on a busy machine
    if timeout "$limit" "$@" >"$output/$name.log" 2>&1; then
        echo "ok $name $((SECONDS - start)) s"
    else
        echo "FAILED $name ($?) $((SECONDS - start)) s, see $output/$name.log"
        failed=$((failed + 1))
    fi
}

if [ "$size" = tiny ]; then
    families=llama,t5 limit=24 states=100 texts=4 rows="1:2" steps=2
else
    families=all limit=400 states=4000 texts=64 rows="1:2 8:16 64:128" steps=40
fi
on="--device $device"
data="--data embedded-translation --limit $limit"

step families-float32 130 $wheels models --check $families $on --output "$output/families-float32.json"
rounded=$output/families-bfloat16.json # the table counts: its command fails where a text differs
step families-bfloat16 100 bash -c "$wheels models --check $families $on --dtype bfloat16 --output $rounded || test -s $rounded"
step teacher 60 $wheels pretrain $data $on --max-steps $steps --eval-limit 4 --width 64 --layers 2 --output "$output/teacher"
step student 60 $wheels pretrain $data $on --max-steps $steps --eval-limit 4 --teacher "$output/teacher" --objective kl \
    --output "$output/student"
step train 90 $wheels train $data $on --student "$output/student" --teacher "$output/teacher" --states $states \
    --texts $texts --rounds 1 --max-new-tokens 16 --calibration-limit 8 --output "$output/model"
step generate 40 $wheels generate $on --model "$output/model" --teacher-budget 0.2 --max-new-tokens 16 "Das Haus ist alt."
for each in $rows; do
    step "speed-${each%%:*}" 80 $wheels bench speed $on --random-weights "$here/$size.yaml" --dtype bfloat16 --rounds 3 \
        --batch-sizes "${each%%:*}" --rows "${each##*:}" --methods hf-teacher,teacher,student,deferral \
        --output "$output/speed-${each%%:*}"
done
exit $failed
