"""penstock.sys beside other WireGuard implementations. Run by scripts/interop.sh, which says what the options are."""
import argparse
import random
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import checks
import guest
from cable import Weather
from ends import KERNEL, Failed, Pair
from implementations import COMMANDS

# Pairs at the same time. They mostly wait, for each other and for timers.
AT_ONCE = 2


def hold(pair, check):
    """Makes a check: what is wrong, or nothing."""
    try:
        pair.cable.weather = Weather()
        pair.fresh()
        check(pair)
    except Failed as what:
        return f"{what}\nseen on the cable, by end and type: {dict(pair.cable.seen)}"
    except Exception:  # a defect of the check itself; the others still run
        return traceback.format_exc()
    return ""


def with_peer(options, peer, wanted):
    """Makes all checks with one peer: (lines to print, passed, failed)."""
    lines, failed = [], 0
    try:
        with Pair(options, peer) as pair:
            for check in wanted:
                start = time.monotonic()
                error = hold(pair, check)
                failed += bool(error)
                took, verdict = time.monotonic() - start, "FAILED" if error else "ok"
                lines.append(f"{verdict:6} {took:5.1f} s  {check.__name__}: {check.__doc__}")
                lines += [error] if error else []
            if failed:
                lines += [f"end {end.number} said:\n{end.said()[-4000:]}" for end in (pair.pen, pair.peer)]
    except Exception:  # neither end, or not both, came up
        lines.append(f"FAILED  to begin\n{traceback.format_exc()}")
        failed = len(wanted)
    return [f"{peer}, seed {options.seed}", *lines], len(wanted) - failed, failed


def main():
    parser = argparse.ArgumentParser()
    for name in ("simulator", "driver", "peers", "kernels"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--peer", action="append", choices=[*COMMANDS, KERNEL])
    parser.add_argument("--check", action="append", default=[])
    parser.add_argument("--seed", type=int, default=random.getrandbits(32))
    options = parser.parse_args()
    wanted = [check for check in checks.CHECKS if not options.check or any(word in check.__name__ for word in options.check)]
    if not wanted:
        sys.exit(f"interop.sh: no check has {' or '.join(options.check)} in its name; there are "
                 + ", ".join(check.__name__ for check in checks.CHECKS))
    peers = options.peer or [KERNEL, *COMMANDS]
    if KERNEL in peers:
        try:
            options.kernel = guest.kernel(options.kernels)
        except (subprocess.CalledProcessError, IndexError) as error:
            said = getattr(error, "stderr", None) or f"no {guest.PACKAGE} is listed"
            sys.exit(f"interop.sh: Debian's kernel cannot be had: {said.strip()}\nTry `apt-get update`, or leave it out with --peer.")
    passed = failed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for lines, good, bad in pool.map(lambda peer: with_peer(options, peer, wanted), peers):
            print("\n".join(lines), flush=True)
            passed, failed = passed + good, failed + bad
    print(f"{passed} passed, {failed} failed, 0 skipped")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
