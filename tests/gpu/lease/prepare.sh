#!/bin/bash
# Before a lease, in the repository's root with its environment active: bash tests/gpu/lease/prepare.sh [PHOTOS]
# Packs the files that the lent machine lacks into .cache/lease, which git ignores; PHOTOS is a folder of training photographs.
set -eu
PACKS=.cache/lease PYTHON=${PYTHON:-python}
rm -rf "$PACKS" && mkdir -p "$PACKS/site"
"$PYTHON" - "$PACKS/site" <<'P'
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

for name in ("diffusers", "array_api_compat"):
    folder = Path(find_spec(name).submodule_search_locations[0])
    shutil.copytree(folder, Path(sys.argv[1]) / name, ignore=shutil.ignore_patterns("__pycache__"))
pipelines = Path(sys.argv[1]) / "diffusers" / "pipelines"  # most of diffusers' bytes, and not used here
for folder in pipelines.iterdir():
    if folder.is_dir():
        shutil.rmtree(folder)
P
"$PYTHON" -c "
import sys
sys.path[:0] = ['tests/gpu']
from pathlib import Path
from plans import LARGE, plan_file, strip
strip(plan_file(LARGE, Path('.cache')), Path('$PACKS') / f'{LARGE}.zip')"
[ $# -eq 0 ] || cp -r "$1" "$PACKS/photos"
tree=$(git ls-files -co --exclude-standard -z | xargs -0 stat -c %s | awk '{sum += $1} END {print sum}')
packs=$(find "$PACKS" -type f -printf '%s\n' | awk '{sum += $1} END {print sum}')
echo "the tree: $tree bytes; the packs: $packs bytes; together they may be $((64 << 20))"
