"""`python -m gated.sync --config lane.toml`: the sync without the technician's command around it."""

import sys

from gated.sync.service import main

if __name__ == "__main__":
    sys.exit(main())
