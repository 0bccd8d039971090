"""Plans run by torch, and the torch arrays that every engine of a CUDA device computes on."""
