#!/bin/sh
# Puts the tested torch into a virtual environment: the build for CPUs on a machine without an NVIDIA
# GPU, the one for its driver's CUDA on a machine with one.
#
#   tools/install_torch.sh .venv/bin/python
#
# uv finds the build (`--torch-backend`): the uv on PATH, else one that is installed beside python.
# Where torch's own index does not answer within seconds, or uv fails, pip takes the build of its own.
# UV_TORCH_BACKEND=cpu, cu130 … chooses another than what the machine has. A torch of the tested
# version that is there already stays.
set -eu

python=$1
constraints=$(dirname "$0")/../constraints.txt
index=${TORCH_INDEX:-https://download.pytorch.org/whl/}
torch=$(grep '^torch==' "$constraints")

is_there() {
    "$python" - "${torch#torch==}" <<'PYTHON' 2>/dev/null
import sys
from importlib.metadata import version

sys.exit(version("torch").partition("+")[0] != sys.argv[1])
PYTHON
}

index_answers() {
    "$python" - "$index" <<'PYTHON' 2>/dev/null
import sys
from urllib.request import Request, urlopen

urlopen(Request(sys.argv[1], method="HEAD"), timeout=5)
PYTHON
}

pip_install() {
    "$python" -m pip --disable-pip-version-check install --quiet "$@"
}

# Of other makers' GPUs, for which uv would take a build too, qbench uses none.
backend() {
    if command -v nvidia-smi >/dev/null || [ -e /proc/driver/nvidia/version ]; then
        echo auto
    else
        echo cpu
    fi
}

# Older ones do not know --torch-backend.
knows_backends() {
    "$1" pip install --help 2>/dev/null | grep -q -e --torch-backend
}

install_by_uv() {
    uv=$(command -v uv || true)
    if [ -z "$uv" ] || ! knows_backends "$uv"; then
        pip_install uv || return 1
        uv=$(dirname "$python")/uv
    fi
    "$uv" pip install --quiet --python "$python" --constraint "$constraints" \
        --torch-backend "${UV_TORCH_BACKEND:-$(backend)}" "$torch"
}

if is_there; then
    exit 0
fi
if ! index_answers; then
    why="$index does not answer"
elif ! install_by_uv; then
    why="uv could not install it"
else
    exit 0
fi
echo "$torch: $why; pip takes the build of its own index, which on PyPI is one with CUDA:" \
    "several gigabytes that a machine without an NVIDIA GPU cannot use" >&2
pip_install --constraint "$constraints" "$torch"
