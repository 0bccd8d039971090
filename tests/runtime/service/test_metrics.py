"""Counts for Prometheus."""

from .asking import counts, restore


def test_the_counts_are_prometheus_and_add_up(client):
    before = counts(client)
    restore(client, steps=5, switch=0)
    restore(client, task="polish")
    after = counts(client)
    assert all(name.startswith("frugal_") for name in after)
    steps = 'frugal_step_seconds_count{phase="gradient"}'
    assert after[steps] - before.get(steps, 0) == 5
    refused, done = 'frugal_rejections_total{cause="input"}', 'frugal_restorations_total{outcome="done"}'
    assert after[refused] - before.get(refused, 0) == 1
    assert after[done] > before.get(done, 0)
    assert after["frugal_images"] == 0
    assert after["frugal_images_limit"] == 3
