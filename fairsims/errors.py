"""The error family. A message says what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FairsimsError(Exception):
    """Anything a user can mend. The command line prints the message and the `page` as one line and exits with 2."""

    page = ""
    """The section of the documentation that says more, where one does."""

    def __init__(self, *message: str, page: str = "") -> None:
        super().__init__(*message)
        self.page = page or self.page


class InputError(FairsimsError):
    """An argument, file or folder is not what it has to be."""


class InfeasibleTarget(FairsimsError):
    """The target lies outside what the base model can be moved to."""

    page = "docs/messages.md#out-of-reach"


class NoResponse(FairsimsError):
    """The share that is to grow does not rise with the strength."""

    page = "docs/messages.md#no-response"


class ChangedSettings(FairsimsError):
    """A run folder holds stages made with other settings."""

    page = "docs/messages.md#changed-settings"


class Diverged(FairsimsError):
    """Training produced a loss or gradient that is not finite, or a loss that exploded."""

    page = "docs/messages.md#diverged"


EXTRAS_PAGE = "docs/messages.md#missing-packages"
"""Where it is said which extra is for what."""


def closest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'a' or 'b'?"``, or a list of what there is when nothing is near."""
    options = list(known)
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "; there is " + ", ".join(repr(n) for n in options[:12]) if options else ""
