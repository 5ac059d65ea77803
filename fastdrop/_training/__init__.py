"""What a training loop does with noise, beside layers: Monte Carlo dropout, R-Drop, max-norm."""
