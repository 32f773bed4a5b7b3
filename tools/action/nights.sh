#!/usr/bin/env bash
# Names the folder of this night and that of the last one with records, as outputs of a step; keeps
# the newest.
#
#   tools/action/nights.sh FOLDER NIGHTS
#
# Folders are named by date and number of the run, so that their names sort by time.
set -euo pipefail
folder=$1 nights=$2

mkdir -p "$folder"
mapfile -t found < <(find "$folder" -mindepth 1 -maxdepth 1 -type d | sort)
last=""
for at in "${!found[@]}"; do
    if ((at < ${#found[@]} - nights)); then
        rm -r "${found[at]}"
    elif [[ -n "$(find "${found[at]}" -name '*.json' -print -quit)" ]]; then
        last=${found[at]}
    fi
done
echo "last=$last"
printf 'this=%s/%s-%06d-%s\n' "$folder" "$(date -u +%F)" "$GITHUB_RUN_NUMBER" "$GITHUB_RUN_ATTEMPT"
