#!/bin/sh
# Writes what an installation of the wheel consists of, as CycloneDX JSON: names, versions, licences.
#
#   tools/sbom.sh .venv/bin/python build/sbom.cdx.json          with a fresh environment of the wheel
#   tools/sbom.sh .venv/bin/python build/sbom.cdx.json ENVIRONMENT   of an environment that is there
#
# python is one with uv and build beside it. cyclonedx-bom, whose needs clash with those of qbench, runs
# in an environment of its own.
set -eu

python=$1
output=$2
root=$(cd "$(dirname "$0")/.." && pwd)
uv=$(dirname "$python")/uv

mkdir -p "$(dirname "$output")"
environment=${3:-}
if [ -z "$environment" ]; then
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    "$python" -m build --quiet --wheel --outdir "$fresh/wheel" "$root"
    "$python" -m venv "$fresh/environment"
    environment=$fresh/environment
    UV_TORCH_BACKEND=cpu "$root/tools/install_torch.sh" "$environment/bin/python"
    "$environment/bin/python" -m pip --disable-pip-version-check install --quiet \
        --constraint "$root/constraints.txt" "$fresh"/wheel/*.whl
    # Tools of the environment, and of the script above, are no part of qbench.
    "$environment/bin/python" -m pip --disable-pip-version-check uninstall --quiet --yes uv pip
fi
"$uv" tool run --quiet --from 'cyclonedx-bom>=7.2,<8' cyclonedx-py environment \
    --pyproject "$root/pyproject.toml" --mc-type application --output-reproducible \
    --spec-version 1.6 --validate --output-format JSON --output-file "$output" "$environment/bin/python"
echo "wrote $output"
