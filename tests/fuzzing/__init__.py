"""Bad input, systematically: every parser fed with damage, under one oracle.

``make fuzz`` (or ``python -m tests.fuzzing --minutes 10``) searches for new crashes, guided by
coverage where atheris is installed; ``tests/test_fuzzing.py`` replays those that were found, and
a few hundred fixed damages of each format, within a minute. What may happen and what may not is
in :mod:`.oracle`; the parsers are in :mod:`.targets`; a crash becomes a file in ``corpus/``.
"""
