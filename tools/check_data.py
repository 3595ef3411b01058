#!/usr/bin/env python
"""The script of `s4m check` and `istd check`."""

import argparse

from d2kit.commands import run_command
from istd.commands import check as istd_check
from s4m.commands import check as s4m_check

CHECKS = {"s4m": s4m_check, "istd": istd_check}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", choices=CHECKS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the command; --help tells them")
    options = parser.parse_args()
    raise SystemExit(run_command(CHECKS[options.package], options.arguments, f"check_data.py {options.package}"))
