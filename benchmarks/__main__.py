"""``python -m benchmarks`` is the pipeline's benchmark."""

from benchmarks.pipeline import main

raise SystemExit(main())
