"""`python -m derper` is the program `derper`."""

import sys

from derper.cli.derper import main

if __name__ == "__main__":
    sys.exit(main())
