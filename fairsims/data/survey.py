"""What lies in a folder, zip or Parquet: every image's header and digest in one pass, and what was passed over."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairsims.data.ahead import READERS, ahead
from fairsims.data.files import ANIMATION, UNREAD, Files, FolderFiles
from fairsims.data.opening import Animation, check_single, open_image, upright, upright_size, usual
from fairsims.data.png import bits
from fairsims.data.policy import ALPHA, ImagePolicy, Unusable
from fairsims.errors import InputError

MOST_UNREAD = 0.1
"""Share of the images that may be passed over, because their format is not read or they are animations."""
SHOWN = 3
BLOCK = 128
"""Images that a thread reads at a time."""


@dataclass(frozen=True, kw_only=True)
class Passed:
    """Files that one rule passes over."""

    n: int
    names: tuple[str, ...]
    """The first of them."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was read of a source, what was not, and by which rule."""

    n: int
    """Images that are read."""
    passed: Mapping[str, Passed] = field(default_factory=dict)
    """By rule."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Images of each size, as 768x512, the most frequent first."""
    modes: Mapping[str, int] = field(default_factory=dict)
    """Images of each mode of Pillow, with their bits where these are not 8."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """What is done to them: `ImagePolicy.stated`."""
    notes: tuple[str, ...] = ()
    """What may have been meant otherwise."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Every image's header."""

    shape: tuple[int, int, int]
    """Channels, height and width of every image under the policy."""
    sizes: Mapping[tuple[int, int], int]
    modes: Mapping[str, int]
    digest: str


def survey(files: Files, policy: ImagePolicy) -> Survey:
    """Read every file once: header and digest. Animations are taken out of `files`.

    Raises InputError for files that are no images, without a way to 8-bit grey or RGB, too many of which are not read,
    or that do not end up as squares of one size.
    """
    if not len(files.names):
        passed = "; ".join(f"{len(names)} {rule} ({names[0]}, ...)" for rule, names in files.passed.items())
        raise InputError(
            f"found no images in {files.path}{f' but {passed}' if passed else ''}; expected PNG or JPEG files; "
            "check the path"
        )
    hashed = isinstance(files, FolderFiles)
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    first: dict[tuple[int, int], str] = {}
    channels: set[int] = set()
    digests: dict[str, str] = {}
    animations: list[str] = []
    blocks = [files.names[start : start + BLOCK] for start in range(0, len(files.names), BLOCK)]
    for found in ahead(lambda names: [_header(files, n, policy, hashed) for n in names], blocks, READERS):
        for name, digest, header in found:
            if digest:
                digests[name] = digest
            if header is None:
                animations.append(name)
                continue
            size, mode, depth = header
            sizes[size] += 1
            modes[mode] += 1
            channels.add(depth)
            first.setdefault(size, name)
    files.passed.update({ANIMATION: animations} if animations else {})
    files.without(animations)
    _check_unread(files)
    side = _side(files, policy, sizes, first)
    shape = (max(channels), side, side)
    return Survey(shape=shape, sizes=sizes, modes=modes, digest=policy.digest(files.digest(digests)))


def found(files: Files, known: Survey, policy: ImagePolicy, notes: Sequence[str]) -> Found:
    """A survey as an audit states it."""
    return Found(
        n=len(files.names),
        passed={rule: Passed(n=len(names), names=tuple(names[:SHOWN])) for rule, names in sorted(files.passed.items())},
        sizes={f"{w}x{h}": n for (w, h), n in Counter(known.sizes).most_common()},
        modes=dict(Counter(known.modes).most_common()),
        policy=policy.stated(),
        notes=tuple(notes),
    )


PAGE = "docs/inputs.md"
"""Where it is said what happens to which kind of image."""


def refused(files: Files, name: str, flaw: Unusable) -> InputError:
    """A flaw with the file that has it."""
    return InputError(f"found {name} in {files.path} {flaw.found}; expected {flaw.expected}; {flaw.advice}", page=PAGE)


def _header(
    files: Files, name: str, policy: ImagePolicy, hashed: bool
) -> tuple[str, str, tuple[tuple[int, int], str, int] | None]:
    """Name, digest where it is wanted, and (size, mode, channels); None of an animation."""
    data = files.data(name)
    digest = hashlib.sha256(data).hexdigest() if hashed else ""
    if (known := usual(data)) is not None:
        return name, digest, (known.size, known.mode, policy.channels(known.mode))
    try:
        with open_image(data) as image:
            check_single(image)
            clear = "transparency" in image.info
            depth = bits(data)
            mode = image.mode if depth == 8 else f"{depth}-bit {image.mode}"
            mode += " with transparency" if clear else ""
            header = upright_size(image), mode, policy.channels(image.mode, clear=clear)
            if policy.background is None and (image.mode in ALPHA or clear):
                policy.apply(upright(image), header[2])  # only the pixels tell whether they are opaque
            return name, digest, header
    except Animation:
        return name, digest, None
    except Unusable as flaw:
        raise refused(files, name, flaw) from None


def _check_unread(files: Files) -> None:
    """Raises InputError where too many images are passed over."""
    unread = [n for rule in (UNREAD, ANIMATION) for n in files.passed.get(rule, [])]
    if len(unread) > MOST_UNREAD * (len(files.names) + len(unread)):
        raise InputError(
            f"found {len(unread)} of {len(files.names) + len(unread)} images in {files.path} that are not read "
            f"({', '.join(unread[:SHOWN])}); expected {MOST_UNREAD:.0%} at most; convert them to PNG, or take them out",
            page=PAGE,
        )


def _side(
    files: Files, policy: ImagePolicy, sizes: Counter[tuple[int, int]], first: Mapping[tuple[int, int], str]
) -> int:
    """Side of the squares that the images are under the policy."""
    if policy.resize is not None:
        return policy.resize
    listed = [f"{n:,} of {w}x{h} ({first[w, h]})" for (w, h), n in sizes.most_common(5)]
    more = f" and {len(sizes) - 5} more sizes" if len(sizes) > 5 else ""
    width, height = next(iter(sizes))
    if len(sizes) > 1 or width != height:
        raise InputError(
            f"found images {', '.join(listed)}{more} in {files.path}; expected squares of one size; "
            "say how they are to become so: --resize 512 --fit crop (or pad)"
        )
    return width
