#!/usr/bin/env bash
# Everything worth knowing about one GPU, in at most 12 minutes: `bash perf/gpu.sh FOLDER [--cpu-smoke]`. See perf/gpu.py.
# Each part has a time limit of its own and writes FOLDER/PART.json. Run it again to go on: what is there is kept.
set -uo pipefail
out=${1:?"usage: bash perf/gpu.sh FOLDER [--cpu-smoke]"}
shift
here=$(cd "$(dirname "$0")" && pwd)
failed=0
for part in answers:120 rates:270 memory:60 images:40 compiled:120 replicas:110; do
    if [ -e "$out/${part%:*}.json" ] && [[ " $* " != *" --again "* ]]; then
        echo "${part%:*}: $out/${part%:*}.json is there"
        continue
    fi
    timeout "${part#*:}" python3 "$here/gpu.py" "${part%:*}" --out "$out" "$@" || { echo "${part%:*} did not finish"; failed=1; }
done
exit $failed
