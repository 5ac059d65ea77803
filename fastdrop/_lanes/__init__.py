"""What one lane of a vector computes, for the CPU and CUDA alike: draws, formulas and arithmetic.

A lane is one place in a vector of the processor, and holds one element. A CPU kernel works on eight or
sixteen lanes at once, a CUDA thread on one, by the same functions.
"""
