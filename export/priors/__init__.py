"""Priors: found by name or folder, downloaded, or read from checkpoints. Folders beside hold the embedded ones."""
