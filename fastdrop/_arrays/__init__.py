"""Arguments on their way to a backend: checked, and cut into plans. NumPy alone."""
