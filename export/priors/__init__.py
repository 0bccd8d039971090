"""Priors: found by name or folder, downloaded, read from checkpoints; the embedded ones lie beside."""
