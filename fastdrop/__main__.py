"""What `python -m fastdrop` starts."""

from fastdrop._tools.cli import main

if __name__ == "__main__":
    main()
