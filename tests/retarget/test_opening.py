"""What a retargeting's settings are refused for, before anything is made."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from fairsims.data import ImageDataset
from fairsims.errors import InputError
from fairsims.pools import encode_png
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.opening import prepare


def reference(folder: Path, digits: ImageDataset, labels: list[str]) -> str:
    """A folder of digits with these labels, whatever they show."""
    folder.mkdir()
    names = [f"{i}.png" for i in range(len(labels))]
    for i, name in enumerate(names):
        (folder / name).write_bytes(encode_png(digits.read([i])[0]))
    pd.DataFrame({"file_name": names, "parity": labels}).to_csv(folder / "metadata.csv", index=False)
    return str(folder)


@pytest.mark.parametrize("target", ["0.5", "uniform", "even=0.4,odd=0.6"])
def test_a_reference_that_lacks_a_class_is_refused(tmp_path: Path, digits: ImageDataset, target: str) -> None:
    asked = {"model": "digits-8", "attr": "parity", "target": target}
    with pytest.raises(InputError, match="has no image of parity odd, which the target wants; give a --reference"):
        prepare(RetargetConfig(**asked, reference=reference(tmp_path / "even", digits, ["even"] * 9)))
    prepare(RetargetConfig(**asked, reference=reference(tmp_path / "both", digits, ["even"] * 9 + ["odd"])))
