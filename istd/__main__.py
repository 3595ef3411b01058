"""`python -m istd` is the console command `istd`."""

from istd.cli import main

raise SystemExit(main())
