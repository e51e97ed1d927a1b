#!/usr/bin/env bash
# Writes docker/requirements.txt and docker/build-requirements.txt: the exact version of every package in the image and
# of what builds it, with the hashes of their files.
#
#   docker/pin-requirements.sh            keeps the versions that are pinned already, where setup.py allows them
#   docker/pin-requirements.sh --upgrade  takes the newest versions that setup.py allows
#
# Needs `uv` (pip install uv), and asks the package index that pip would ask.
set -euo pipefail
cd "$(dirname "$0")/.."

pin() {  # OUTPUT INPUT...
    uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --quiet \
        --custom-compile-command docker/pin-requirements.sh --output-file "$@"
}

# Our own wheel, and packages without one, are built with this in the image's first stage.
echo 'setuptools>=77' | pin docker/build-requirements.txt - "$@"
pin docker/requirements.txt setup.py --extra containers "$@"
