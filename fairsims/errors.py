"""The error family. A message says what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FairsimsError(Exception):
    """Anything a user can mend. The command line prints the message as one line and exits with 2."""


class InputError(FairsimsError):
    """An argument, file or folder is not what it has to be."""


class InfeasibleTarget(FairsimsError):
    """The target lies outside what the base model can be moved to."""


class NoResponse(FairsimsError):
    """The share that is to grow does not rise with the strength."""


class ChangedSettings(FairsimsError):
    """A run folder holds stages made with other settings."""


class Diverged(FairsimsError):
    """Training produced a loss or gradient that is not finite, or a loss that exploded."""


def closest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'a' or 'b'?"``, or a list of what there is when nothing is near."""
    options = list(known)
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "; there is " + ", ".join(repr(n) for n in options[:12]) if options else ""
