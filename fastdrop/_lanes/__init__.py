"""What one lane computes, for CPU and CUDA alike: draws, formulas, and the vectors that hold them."""

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")  # a formula knows one by its place here
