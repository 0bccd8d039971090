#!/bin/bash
# The first call of a lease: set the machine up, start the training, and report what works.
. "$(dirname "$0")/lease.sh"
nvidia-smi --query-gpu=name,driver_version,memory.used --format=csv,noheader 2>&1 | head -n 1
[ -d "$PACKS/site" ] && cp -r "$PACKS/site" "$KEPT/"
start_training
if [ -s "$PACKS/celebahq-256.zip" ]; then
  step plan-256 60 "$PYTHON" tests/gpu/plans.py fill "$PACKS/celebahq-256.zip" "$KEPT/plans/celebahq-256.plan"
fi
seconds=${LEASE_SMOKE_SECONDS:-100}
for prior in ${LEASE_PRIORS:-celeba photo}; do
  SHOW=40 step "smoke-$prior" "$seconds" "$PYTHON" "$KIT/smoke.py" "${LEASE_PLAN:-$prior}" "$OUT/smoke-$prior.json" \
    ${LEASE_BACKENDS:-torch:fp32 torch:bf16 torch:fp16} --seconds $((seconds - 20)) ${LEASE_SMOKE:-}
done
if [ "${LEASE_TESTS:-yes}" = yes ]; then
  SHOW=60 step tests 120 "$PYTHON" -m pytest -q --maxfail 6 -m gpu tests/gpu -k "${LEASE_TESTS_OF:-torch:bf16 and not memory}" --durations 5
fi
bring_back
