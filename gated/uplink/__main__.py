"""`python -m gated.uplink --config lane.toml`: the uplink without the technician's command around it."""

import sys

from gated.uplink.service import main

if __name__ == "__main__":
    sys.exit(main())
