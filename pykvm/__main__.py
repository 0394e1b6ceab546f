"""`python -m pykvm`."""

from pykvm.cli import main

raise SystemExit(main())
