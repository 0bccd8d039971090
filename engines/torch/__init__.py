"""Plans run by torch, and the torch arrays of every engine on a CUDA device."""
