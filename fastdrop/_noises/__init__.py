"""The noises: one file for each, with its functions, gradient, layer and record.

A new noise is a new file here, which ends with its record (see `_noise`), and a line for each public name in
`fastdrop/__init__.py`. If no formula of `fastdrop._lanes.formulas` computes it, it also gets one there.
"""
