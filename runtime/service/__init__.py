"""A pool behind HTTP: `frugal-rt serve` needs the extra [serve], replicas on a Ray cluster [ray-serve]."""

TOKEN = "FRUGAL_RT_TOKEN"
"""The environment variable with the token that requests must carry."""
