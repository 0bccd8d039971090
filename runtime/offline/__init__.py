"""Many pictures restored by one command: in one process, on several GPUs, on a Ray cluster."""
