"""Checks of arguments, and plans: what a backend is told to do with which arrays. It needs NumPy alone."""
