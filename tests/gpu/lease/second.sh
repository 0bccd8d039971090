#!/bin/bash
# The second call of a lease: the figures, the training paused while they are taken, backend by backend and part by part.
. "$(dirname "$0")/lease.sh"
mkdir -p "$KEPT/figures"
named=()
for backend in ${LEASE_BACKENDS:-torch:fp32 torch:bf16 torch:fp16 torch-compile:bf16}; do named+=(--backend "$backend"); done
signal_training STOP
for part in ${LEASE_PARTS-256 hybrid forward 64 photo}; do
  SHOW=20 step "figures-$part" ${LEASE_PART_SECONDS:-120} "$PYTHON" tests/gpu/figures.py -o "$KEPT/figures" --parts "$part" "${named[@]}"
  cp "$KEPT"/figures/*.json "$KEPT"/figures/*.md "$OUT" 2>/dev/null
done
signal_training CONT
if [ "${LEASE_LAST:-no}" = yes ]; then # the training saves its state and ends
  signal_training TERM
  sleep "${LEASE_PATIENCE:-20}"
  [ -d "$KEPT/train/prior" ] && cp -r "$KEPT/train/prior" "$OUT/"
fi
bring_back
