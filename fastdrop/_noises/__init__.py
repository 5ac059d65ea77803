"""One file for each noise: its functions, gradients, layer and record."""
