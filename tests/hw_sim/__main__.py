"""`python -m tests.hw_sim COMMAND`: demo, soak, crash. Each explains itself with --help."""

import importlib
import sys

COMMANDS = {
    "demo": "one lane with real networks and a real broker, live",
    "soak": "many seeds in virtual time",
    "crash": "kill -9 at random while passengers pass",
}


def main() -> int:
    """Returns the exit code."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print("usage: python -m tests.hw_sim COMMAND [--help]")
        for name, about in COMMANDS.items():
            print(f"  {name:6} {about}")
        return 0 if sys.argv[1:2] in (["-h"], ["--help"]) else 2
    module = importlib.import_module(f"tests.hw_sim.{sys.argv[1]}")
    code = module.main(sys.argv[2:])
    assert isinstance(code, int)
    return code


if __name__ == "__main__":
    sys.exit(main())
