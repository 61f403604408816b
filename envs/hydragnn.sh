#!/usr/bin/env bash
# Installs HydraGNN, with which tests/exchange compares, into .venv/hydragnn; a second call is quick.
#
#   envs/hydragnn.sh
#
# It goes into a folder of its own, since it brings packages named 'tests' and 'utils', which would hide this project's
# tests; and without its dependencies, of which pickle5 and torch-scatter are neither needed nor easily built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash envs/local.sh
lock=envs/hydragnn.lock folder=.venv/hydragnn
cmp -s "$lock" "$folder/installed" && exit 0
rm -rf "$folder"
echo "envs/hydragnn.sh: installing $(grep -c '==' "$lock") packages of $lock" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target "$folder" \
  -r "$lock" || {
  echo "envs/hydragnn.sh: error: pip could not install them (see above); tests/exchange needs them" >&2
  exit 1
}
cp "$lock" "$folder/installed"
