# Functions for the calls of a lease; sourced in the repository's root on the lent machine.
set -u
KIT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KEPT=${LEASE_KEPT:-/tmp/lease} # kept from one call to the next while the machine is held
PACKS=${LEASE_PACKS:-.cache/lease} # made by prepare.sh, carried with the tree
OUT=${OUT:-$KEPT/out}
PYTHON=${LEASE_PYTHON:-python3}
mkdir -p "$KEPT/plans" "$KEPT/train" "$OUT" .cache && ln -sfn .. .cache/frugal_rt
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 FRUGAL_RT_CACHE=$KEPT/cache TORCHINDUCTOR_CACHE_DIR=$KEPT/inductor
export FRUGAL_RT_PLANS=${FRUGAL_RT_PLANS:-$KEPT/plans}
export PYTHONPATH=$KEPT/site:$PWD/.cache${PYTHONPATH:+:$PYTHONPATH}

# step NAME SECONDS COMMAND...: run under a limit, keep the output in $OUT/NAME.log, and show its end; a failure ends nothing.
step() {
  local name=$1 limit=$2 status began=$SECONDS
  shift 2
  timeout -k 5 "$limit" "$@" >"$OUT/$name.log" 2>&1
  status=$?
  echo "$name: status $status, $((SECONDS - began)) s of $limit" | tee -a "$OUT/steps.log"
  tail -n "${SHOW:-6}" "$OUT/$name.log" | cut -c 1-300 | sed 's/^/    /'
  return $status
}

# The training leads a process group of its own, which is paused while times are taken.
signal_training() { [ -s "$KEPT/train/group" ] && kill "-$1" -- "-$(cat "$KEPT/train/group")" 2>/dev/null; return 0; }

start_training() { # with the photographs of $PACKS/photos, if there are any
  [ -d "$PACKS/photos" ] || return 0
  cp -r "$PACKS/photos" "$KEPT/"
  setsid "$PYTHON" -m frugal_rt.export.priors.train export/priors/photo/recipe.json --data "$KEPT/photos" --out "$KEPT/train/prior" \
    --init export/priors/photo ${LEASE_TRAINING:---compile} >>"$KEPT/train.log" 2>&1 </dev/null &
  echo $! >"$KEPT/train/group"
}

bring_back() { # logs, tables and the training's last lines, in one archive
  [ -s "$KEPT/train.log" ] && tail -n 3 "$KEPT/train.log" && cp "$KEPT/train.log" "$OUT"
  tar czf "$KEPT/results.tgz" -C "$OUT" . && find "$OUT" -mindepth 1 -delete && mv "$KEPT/results.tgz" "$OUT/results.tgz"
}
