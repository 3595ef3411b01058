"""`python -m s4m` is the console command `s4m`."""

from s4m.cli import main

raise SystemExit(main())
