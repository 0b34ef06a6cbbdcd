"""A publisher to be killed: changes the register and publishes as fast as it can. Each announcement is a line of hex.

python -m tests.hq_child FOLDER SEED
"""

import contextlib
import random
import sys
from datetime import timedelta
from pathlib import Path

from gated import logs
from gated.hq import epochs
from gated.hq.published import StateFault
from gated.wire.rows import PARTITIONS
from tests.hq_rig import BOTH, NOW, ONLINE, Hq, change


def main(folder: Path, seed: int) -> None:
    logs.configure("error", "console")
    dice = random.Random(seed)
    hq = Hq(folder)
    publishers = [hq.publisher(ONLINE), hq.publisher(BOTH)]
    now = NOW + timedelta(hours=seed)
    while True:
        publishing = dice.choice(publishers)
        for _ in range(dice.randrange(3)):
            change(hq.register, dice)
        if dice.random() < 0.03:
            with contextlib.suppress(StateFault):  # one has begun already
                epochs.begin(hq.state, hq.keys, dice.choice(PARTITIONS), now)
        now += timedelta(minutes=1)
        if dice.random() < 0.3:
            done = publishing.urgent(now)
        else:
            done = publishing.round(now, snapshot=dice.random() < 0.1, consolidate=dice.random() < 0.2)
        assert not any(each.fault for each in done.done), done
        print(publishing.announcement(done).hex(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
