"""What a mask is a function of, in integers alone: keys, Philox, and the contract in plain NumPy."""
