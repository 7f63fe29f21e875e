"""`python -m derper` runs the program `derper`."""

import sys

from derper.cli.entry import derper

if __name__ == "__main__":
    sys.exit(derper())
