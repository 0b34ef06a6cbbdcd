"""`python -m tests.hw_sim COMMAND`: demo, soak, crash and others. Each explains itself with --help."""

import importlib
import sys

COMMANDS = {
    "demo": "one lane with real networks and a real broker, live",
    "soak": "many seeds in virtual time",
    "mutants": "plants mistakes in the machine; the tests must catch each",
    "mutants-policy": "changes every number, date, cell and predicate of the policy; each must be caught or explained",
    "crash": "kill -9 at random while passengers pass",
    "crash-sync": "kill -9 and I/O errors at many points of a sync; then old or new, never mixed",
    "offline": "a lane comes back after a month alone: what reaches HQ when",
    "protocol": "lane and HQ over a broker that loses and shuffles, without sockets: many seeds",
    "storm": "kill -9, cut lines, full disks between lanes and HQ; then every record at HQ once, in its order",
    "fleet": "many lanes, wire-only or full, report over mutual TLS to one HQ: nothing lost, nothing doubled",
    "fleet-sync": "200 lanes with the real sync against one HQ: seconds, bytes and CPU until all are current",
    "fingers": "prints of fingers that nobody has, as pictures",
    "scan": "a demonstration, and no passenger to be found in any file afterwards",
}


def main() -> int:
    """Returns the exit code."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print("usage: python -m tests.hw_sim COMMAND [--help]")
        for name, about in COMMANDS.items():
            print(f"  {name:10} {about}")
        return 0 if sys.argv[1:2] in (["-h"], ["--help"]) else 2
    module = importlib.import_module(f"tests.hw_sim.{sys.argv[1].replace('-', '_')}")
    code = module.main(sys.argv[2:])
    assert isinstance(code, int)
    return code


if __name__ == "__main__":
    sys.exit(main())
