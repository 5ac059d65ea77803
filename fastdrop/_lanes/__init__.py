"""What one lane computes, for CPU and CUDA alike: draws, formulas, and the vectors that hold them."""
