"""Types that fixtures and tests share."""

from __future__ import annotations

from collections.abc import Callable

from fairsims.denoisers import EDMDenoiser
from fairsims.pools import Pool

MakeNetwork = Callable[..., EDMDenoiser]
MakePool = Callable[..., Pool]
