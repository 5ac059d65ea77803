"""What `python -m fastdrop` does."""
