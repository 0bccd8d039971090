"""Restoration of many pictures by one command: in one process, on several GPUs, or on a Ray cluster."""
