"""Tables of labels: a row per image, named by seed or file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairsims.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def read_table(path: Path) -> pd.DataFrame:
    """CSV, every cell as text and an empty one missing, or Parquet as it is.

    Raises InputError naming the file when it is missing or no such table.
    """
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    except (OSError, ValueError) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:120]
        text = f"found that {path} is no table of labels ({reason}); expected CSV or Parquet; mend it"
        raise InputError(text) from None


def image_name(value: Any) -> str:
    """A file name as a table may write it, with forward slashes and without the folder it lies in."""
    return str(value).strip().replace("\\", "/").removeprefix("./")


def identity(value: Any) -> str:
    """What identifies an image: a seed as its digits ("07" is 7), a file name as `image_name`."""
    text = image_name(value)
    return str(int(text)) if text.lstrip("-").isdecimal() else text
