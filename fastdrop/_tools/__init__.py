"""The command line `python -m fastdrop`: `cli` reads it, and each command has a file."""
