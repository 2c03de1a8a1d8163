"""What a run is doing and what it has cost so far, on disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairsims import engine
from fairsims.files import read_json, write_json
from fairsims.pools import Pool
from fairsims.run import this_process


class Status:
    """`status.json` (what the run is doing) and `timings.json` (seconds per stage, added up over resumptions).

    Around the work of a whole run, it says that the run failed when that raises.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.current = run, ""
        path = run / "timings.json"
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    def __enter__(self) -> Status:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            # The disk may be what failed.
            with contextlib.suppress(OSError):
                self._say("failed", " ".join(str(error).split()) or type(error).__name__)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens inside is stage `name`: its time is counted even when it fails."""
        self.current, start = name, time.perf_counter()
        self._say("running")
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)
            if engine.is_main():
                # The disk may be what failed.
                with contextlib.suppress(OSError):
                    write_json(self.run / "timings.json", self.seconds)

    def finish(self) -> None:
        """The run is whole."""
        self._say("finished")

    def _say(self, state: str, message: str = "") -> None:
        if engine.is_main():
            # A killed process leaves "running" behind.
            who = {"process": this_process()} if state == "running" else {}
            write_json(self.run / "status.json", {"stage": self.current, "state": state, "message": message} | who)

    def cost(self) -> dict[str, Any]:
        """Images, evaluations and seconds of every stage but the audit, for `audit.json`."""
        import resource

        run, config = self.run, read_json(self.run / "config.json")
        nfe = {w: read_json(run / w / "pool.json")["evaluations_per_image"] for w in ("before", "after")}
        after_images = len(Pool(run / "candidates")) if (run / "candidates").exists() else config["audit"]
        images = {
            "pool": (config["pool"], nfe["before"]),
            "before": (config["audit"], nfe["before"]),
            "after": (after_images, nfe["after"]),
        }
        # The audit itself is still running when this is written, except in a run killed just after it.
        spent = {s: t for s, t in self.seconds.items() if s != "audit"}
        stages = []
        for name, seconds in spent.items():
            # Later rounds are called calibration-2, auxiliary-2, ...
            kind, stage = name.split("-")[0], {"stage": name, "seconds": seconds}
            if kind == "calibration":
                made = sum(len(Pool(p.parent)) for p in (run / name).glob("*/pool.json"))
                stage |= {"images": made, "evaluations": made * nfe["after"]}
            elif kind in images:
                stage |= {"images": images[kind][0], "evaluations": images[kind][0] * images[kind][1]}
            elif kind == "auxiliary":
                stage |= {"images": round(config["budget"] * 1000)}
            stages.append(stage)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {"stages": stages, "seconds": round(sum(spent.values()), 1), "peak_memory_gb": round(peak, 2)}
