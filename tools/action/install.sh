#!/usr/bin/env bash
# Gives the composite action a Python that has qbench, and puts its path into $GITHUB_OUTPUT.
#
# PYTHON: one that has it already; without it an environment of its own is made from this checkout, in
# the tested versions of its packages, with the extras that EXTRAS names, such as `gguf,hqq`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

if [[ -n "$PYTHON" ]]; then
    python=$PYTHON
    # -P: as it is called later, without what lies where the workflow stands. An output is one line.
    if [[ "$python" == *$'\n'* ]] || ! "$python" -P -m qbench list --help >/dev/null; then
        echo "::error title=qbench action::python: found ${python//$'\n'/ }, which does not run" \
            "qbench; expected one that has it, or none: qbench is then installed"
        exit 2
    fi
else
    python=$RUNNER_TEMP/qbench-venv/bin/python
    python3 -m venv "$RUNNER_TEMP/qbench-venv"
    "$here/tools/install_torch.sh" "$python"
    "$python" -m pip --disable-pip-version-check install --quiet \
        --constraint "$here/constraints.txt" "$here${EXTRAS:+[${EXTRAS// /}]}"
fi
echo "python=$python" >>"$GITHUB_OUTPUT"
