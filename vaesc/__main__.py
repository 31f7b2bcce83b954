"""``python -m vaesc`` is ``vaesc``."""

from vaesc.cli import main

raise SystemExit(main())
