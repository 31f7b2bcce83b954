"""What can go wrong for a reason the user can act on: one clear sentence each.

The command line prints the sentence and exits with :attr:`VaescError.exit_code`; anything that is
not a :class:`VaescError` is a defect of vaesc, and says so.
"""

from __future__ import annotations


class VaescError(Exception):
    """Base of every error whose message is written for the user."""

    exit_code = 1


class ConfigError(VaescError, ValueError):
    """A setting is unknown, of the wrong type, or breaks a rule; exit code 2 (wrong usage)."""

    exit_code = 2


class DataError(VaescError, ValueError):
    """Input data is missing, damaged, or not what the step needs."""


class StoreError(VaescError):
    """An artifact is missing, damaged, or cannot be written."""


class TrainingError(VaescError, ArithmeticError):
    """Training cannot go on: the loss is not finite."""


class RegistryError(VaescError, LookupError):
    """The model registry is unreachable, empty, or has no such model, version or alias."""


class ServingError(VaescError, ConnectionError):
    """A served model does not answer, or not as one does."""
