"""What may break at night, broken on purpose at every point of a run.

A run is traced once: every file it opens for writing, renames, makes or removes, and every
statement it sends to MLflow's database is a *point*, named after what it does and where. Then runs
are broken at these points, one point a run: killed, interrupted, refused by the disk. After each,
the next run must complete with the digests of the undisturbed run, without computing anew what was
finished, and leave nothing behind: no temporary file, no run that is "Running" for ever.

::

    python -m tests.faults            # the long form, the figures of docs/faults.md
    python -m tests.faults --all      # every point that there is, some 900 (hours)
    python -m tests.faults --few 20   # a few
    python -m tests.faults.kills      # trainings killed at 50 random moments, and resumed
"""
