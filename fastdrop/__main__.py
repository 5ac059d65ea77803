"""`python -m fastdrop`: the command line."""

from fastdrop._tools.cli import main

if __name__ == "__main__":
    main()
