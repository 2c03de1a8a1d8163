"""What test_engine.py runs under torchrun: processes that find each other, add up, and wait for the first."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fairsims import engine
from fairsims.errors import FairsimsError


def main(out: Path) -> None:
    engine.initialise()
    engine.initialise()  # once is enough
    rank = engine.rank()
    found: dict[str, Any] = {"rank": rank, "world": engine.world(), "share": list(engine.share(5))}

    values = [torch.full((2, 2), 0.1 + rank), torch.tensor(float(rank), requires_grad=True)]
    engine.all_sum(values)
    found["sum"] = [v.tolist() for v in values]

    with engine.main_first():
        if engine.is_main():
            time.sleep(0.3)
            (out / "first").touch()
        found["saw_first"] = (out / "first").exists()
    try:
        with engine.main_first():
            raise FairsimsError(f"body of rank {rank}")
    except FairsimsError as e:
        found["failed"] = str(e)
    (out / f"rank-{rank}.json").write_text(json.dumps(found))
    engine.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
