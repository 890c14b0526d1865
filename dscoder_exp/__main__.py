"""Entry point of `python -m dscoder_exp`."""

import sys

from dscoder_exp.app import main

if __name__ == "__main__":
    sys.exit(main())
