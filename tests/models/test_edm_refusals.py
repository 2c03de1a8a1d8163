"""What is not an EDM snapshot is refused in one line, without being run and without taking memory."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from edm_snapshots import Call, Persistent, dumps, snapshot, tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairsims.cli import main
from fairsims.errors import InputError
from fairsims.models import inert_pickle, open_checkpoint
from fairsims.models.edm_pickle import read_snapshot

EDM = Path(__file__).parents[1] / "fixtures" / "edm"
BAD = sorted((EDM / "bad").glob("*.pkl"))
pytestmark = pytest.mark.usefixtures("pwned")


def refusal(path: Path, data: bytes) -> str:
    """The one line that importing these bytes ends in."""
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_snapshot(path)
    message = str(caught.value)
    assert message.startswith(f"{path} was not imported: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message


@pytest.mark.parametrize("file", BAD, ids=lambda p: p.stem)
def test_bad_files_end_in_one_line(file: Path, tmp_path: Path) -> None:
    assert len(BAD) == 4
    result = CliRunner().invoke(main, ["import", "edm", str(file), str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert file.name in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == []
    with pytest.raises(InputError):
        open_checkpoint(file)
    assert list((tmp_path / "cache").rglob("*.safetensors")) == []


SHELL = 'touch "$FAIRSIMS_PWNED"'


class Legacy:
    """A tensor that pickles with any storage blob, offset, size and stride."""

    def __init__(self, blob: Any, offset: Any, size: Any, stride: Any) -> None:
        self.arguments = (Call("torch.storage._load_from_bytes", blob), offset, size, stride, False, {})

    def __reduce__(self) -> tuple[Any, ...]:
        return Call("torch._utils._rebuild_tensor_v2", *self.arguments).__reduce__()


def storage_blob(numbers: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(numbers._typed_storage(), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def replaced(value: Any, *, name: str = "norm0") -> Callable[[dict[str, Any]], None]:
    """Put something in the place of a weight."""

    def change(content: dict[str, Any]) -> None:
        modules = content["ema"].state["_modules"]["model"].state["_modules"]
        modules["enc"]._modules["8x8_block0"].state["_modules"][name].state["_parameters"]["weight"] = value

    return change


def argument(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["ema"].state["_init_kwargs"].update(values)


def attribute(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["ema"].state.update(values)


def zip_blob() -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.ones(8), buffer)
    return buffer.getvalue()


def long_blob() -> bytes:
    """A storage that announces 2**40 numbers."""
    blob = storage_blob(torch.ones(8))
    assert blob.count(b"K\x08N") == 1
    return blob.replace(b"K\x08N", b"\x8a\x06" + struct.pack("<q", 2**40)[:6] + b"N")


def calling_blob() -> bytes:
    """A storage whose own pickle calls something."""
    blob = storage_blob(torch.ones(8))
    start = blob.index(b"Q.")  # the persistent id of the storage
    return blob[: start + 1] + b"0cos\nsystem\n(X\x18\x00\x00\x00" + SHELL.encode() + b"tR." + blob[start + 2 :]


def endless(content: dict[str, Any]) -> None:
    bag = torch.nn.ModuleDict()
    bag.__dict__["_modules"] = {"a": bag}
    content["ema"].state["_modules"]["more"] = bag


def doubling(content: dict[str, Any]) -> None:
    module = Persistent("Linear", {})
    for _ in range(60):
        module = Persistent("Linear", {"_modules": {"a": module, "b": module}})
    content["ema"].state["_modules"]["more"] = module


def shared(content: dict[str, Any]) -> None:
    blob = storage_blob(torch.ones(50_000))
    for i in range(200):
        content["ema"].state["_buffers"][f"more{i}"] = Legacy(blob, i, (40_000,), (1,))


def deep(content: dict[str, Any]) -> None:
    nested: Any = ()
    for _ in range(900):
        nested = (nested,)
    content["ema"].state["_init_kwargs"] = {"img_resolution": nested, "img_channels": 1}


EIGHT = storage_blob(torch.ones(8))
REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a call": (replaced(Call("os.system", SHELL)), "names (os|posix).system"),
    "a call in a list": (attribute(note=[Call("builtins.eval", "1")]), "names builtins.eval"),
    "a call for a dtype": (attribute(note=Call("builtins.getattr", 1, "real")), "names builtins.getattr"),
    "torch.load": (attribute(note=Call("torch.load", "x")), "names torch.serialization.load"),
    "easy": (attribute(note=Call("dnnlib.util.EasyDict", {})), "damaged or no pickle"),
    "version": (
        lambda c: c.update(ema=Persistent("EDMPrecond", {}, version=5)),
        "version 5; expected a class, version 6",
    ),
    "kind": (lambda c: c.update(ema=Persistent("EDMPrecond", {}, type="module")), "expected a class"),
    "no ema": (lambda c: c.pop("ema"), "no network named 'ema'"),
    "short storage": (
        replaced(Legacy(storage_blob(torch.ones(4)), 0, (8,), (1,))),
        "claims 8 numbers of a storage of 4",
    ),
    "offset": (replaced(Legacy(EIGHT, 1, (8,), (1,))), "claims 9 numbers of a storage of 8"),
    "stride": (replaced(Legacy(EIGHT, 0, (8,), (2,))), "claims 15 numbers of a storage of 8"),
    "overlap": (replaced(Legacy(EIGHT, 0, (2**40,), (0,))), "claims 1099511627776 numbers of a storage of 8"),
    "negative": (replaced(Legacy(EIGHT, -1, (8,), (1,))), "negative offset, size or stride"),
    "negative stride": (replaced(Legacy(EIGHT, 7, (8,), (-1,))), "negative offset, size or stride"),
    "dimensions": (replaced(Legacy(EIGHT, 0, (1,) * 100, (1,) * 100)), "100 sizes and 100 strides"),
    "ragged": (replaced(Legacy(EIGHT, 0, (8,), (1, 1))), "1 sizes and 2 strides"),
    "size of text": (replaced(Legacy(EIGHT, 0, ("8",), (1,))), "a str where a int belongs"),
    "announced length": (replaced(Legacy(long_blob(), 0, (8,), (1,))), "a storage in it has LONG1"),
    "cut storage": (replaced(Legacy(EIGHT[:-3], 0, (8,), (1,))), "a storage in it is damaged"),
    "zip storage": (replaced(Legacy(zip_blob(), 0, (8,), (1,))), "damaged or no pickle"),
    "calling storage": (replaced(Legacy(calling_blob(), 0, (8,), (1,))), "a storage in it has"),
    "raw pickle storage": (replaced(Legacy(dumps(Call("os.system", SHELL)), 0, (8,), (1,))), "a storage in it has"),
    "integers": (replaced(Legacy(storage_blob(torch.ones(8).int()), 0, (8,), (1,))), "expected floating point"),
    "text storage": (replaced(Legacy("no bytes", 0, (8,), (1,))), "a str where a bytes belongs"),
    "shape": (replaced(torch.ones(9)), "do not fit its constructor arguments.*norm0.weight"),
    "not a tensor": (replaced(3.5), "norm0.weight is 3.5; expected a tensor"),
    "nothing there": (replaced(None), "Missing key.*norm0.weight"),
    "not finite": (replaced(torch.full((8,), torch.nan)), "not finite"),
    "endless": (endless, "hold each other without end"),
    "doubling": (doubling, "hold each other without end"),
    "shared": (shared, "more.* shares its storage"),
    "deep": (deep, "img_resolution is a tuple"),
    "class": (
        lambda c: setattr(c["ema"], "class_name", "StackedPrecond"),
        "holds a StackedPrecond; expected one of EDMP",
    ),
    "network": (
        lambda c: setattr(c["ema"].state["_modules"]["model"], "class_name", "DiT"),
        "network is DiT; expected one",
    ),
    "no network": (lambda c: c["ema"].state["_modules"].clear(), "network is missing"),
    "other network": (argument(model_type="DhariwalUNet"), "model_type is not the SongUNet"),
    "positional": (attribute(_init_args=(8,)), "does not say by keyword"),
    "unknown argument": (argument(depth=3, width=4), "unknown argument depth, width"),
    "ours": (argument(patch_size=2), "unknown argument patch_size"),
    "other class's": (argument(beta_d=3.0), "unknown argument beta_d"),
    "no resolution": (lambda c: c["ema"].state["_init_kwargs"].pop("img_resolution"), "without img_resolution"),
    "huge": (argument(img_resolution=2**40), "img_resolution is 1099511627776; expected a number from 1 to 1024"),
    "blocks": (argument(num_blocks=10**9), "num_blocks is 1000000000; expected"),
    "bool": (argument(num_blocks=True), "num_blocks is True; expected"),
    "nan": (argument(dropout=float("nan")), "dropout is nan; expected"),
    "text for a number": (argument(model_channels="8"), "model_channels is 8; expected"),
    "list for a number": (argument(model_channels=[8]), "model_channels is a list; expected"),
    "number for a list": (argument(channel_mult=1), "channel_mult is 1; expected up to 16"),
    "long list": (argument(channel_mult=[1] * 17), "channel_mult is a list; expected up to 16"),
    "number for text": (argument(encoder_type=1), "encoder_type is 1; expected text"),
    "type": (argument(encoder_type="dense"), "encoder_type is 'dense'; expected one of"),
    "attention": (argument(img_resolution=512), "attention at 512x512; expected 128x128 at most"),
    "activation": (argument(img_resolution=1024, model_channels=4096, channel_mult=[1] * 8), "are too many to run"),
    "channels": (argument(model_channels=16), "do not fit its constructor arguments"),
    "odd": (argument(img_resolution=9, channel_mult=[1, 2]), "describe no network"),
    "changed": (attribute(sigma_data=0.9), "constructed with sigma_data 0.5 and now has 0.9"),
    "changed to a list": (attribute(sigma_data=[0.5]), "now has a list"),
    "range": (
        lambda c: [argument(sigma_min=90.0)(c), attribute(sigma_min=90.0)(c)],
        "trained for sigma from 90.0 to inf",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    change, expected = REFUSED[case]
    content = snapshot(tiny())
    change(content)
    with small_memory():
        message = refusal(tmp_path / "x.pkl", dumps(content, "dnnlib.util.EasyDict"))
    assert re.search(expected, message), message


def test_fixed_numbers_have_to_be_those_asked_for(tmp_path: Path) -> None:
    for options, name in (({"channel_mult": [1, 1]}, "resample_filter"), ({"preconditioning": "iddpm", "M": 50}, "u")):
        network = tiny(**options)
        for key, buffer in network.named_buffers():
            if key.endswith(name):
                buffer.mul_(1.5)
        assert f"{name} is not what" in refusal(tmp_path / "x.pkl", dumps(snapshot(network)))


def test_the_payload_is_a_live_one(pwned: Path) -> None:
    # Python's own unpickler runs what the tests above say was not run.
    pickle.loads(dumps(Call("os.system", SHELL)))
    assert pwned.exists()
    pwned.unlink()


def pickle_of(*opcodes: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + b"".join(opcodes) + b"."


RAW: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no pickle of protocol 4 or 5"),
    "text": (b"not a pickle at all", "no pickle of protocol 4 or 5"),
    "a png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "no pickle of protocol 4 or 5"),
    "a zip": (zip_blob(), "no pickle of protocol 4 or 5"),
    "protocol 2": (pickle.dumps({"ema": 1}, protocol=2), "no pickle of protocol 4 or 5"),
    "protocol 0": (b"cos\nsystem\n(S'" + SHELL.encode() + b"'\ntR.", "no pickle of protocol 4 or 5"),
    "GLOBAL": (pickle_of(b"cos\nsystem\n(S'" + SHELL.encode() + b"'\ntR"), "opcode GLOBAL .os system."),
    "INST": (pickle_of(b"(S'" + SHELL.encode() + b"'\nios\nsystem\n"), "opcode STRING"),
    "OBJ": (pickle_of(b"(\x8c\x02os\x8c\x06system\x93o"), "names os.system"),
    "extension": (pickle_of(b"\x82\x01"), "opcode EXT1"),
    "memo": (pickle_of(b"Nr\xff\xff\xff\x7f"), "opcode LONG_BINPUT"),
    "bytearray": (pickle_of(b"\x96" + struct.pack("<Q", 2**40), protocol=5), "damaged or no pickle"),
    "bytes": (pickle_of(b"\x8e" + struct.pack("<Q", 2**60)), "damaged or no pickle"),
    "frame": (pickle_of(b"\x95" + struct.pack("<Q", 2**62), b"N"), "no network named 'ema'"),
    "get": (pickle_of(b"h\x07"), "damaged or no pickle"),
    "two values": (pickle_of(b"NN"), "damaged or no pickle"),
    "no mark": (pickle_of(b"t"), "damaged or no pickle"),
    "call a number": (pickle_of(b"K\x01)R"), "damaged or no pickle"),
    "set the state of a dict": (pickle_of(b"}}b"), "sets the state of a dict"),
    "unhashable key": (pickle_of(b"}]Ns"), "damaged or no pickle"),
    "opcodes": (pickle_of(b"N0"), "opcode POP"),
    "deep key": (pickle_of(b"})" + b"\x85" * 60_000 + b"Ns"), "damaged or no pickle"),
    "dtype": (dumps([np.float64(1), np.dtype("O")]), "numpy number of type O8"),
    "scalar": (dumps(Call("numpy.dtype", "f8", False, True)), "no network named 'ema'"),
}


@pytest.mark.parametrize("case", RAW)
def test_other_files_are_refused(case: str, tmp_path: Path) -> None:
    data, expected = RAW[case]
    with small_memory():
        message = refusal(tmp_path / "x.pkl", data)
    assert re.search(expected, message), message


def test_the_number_of_opcodes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes) -> None:
    monkeypatch.setattr(inert_pickle, "MAX_OPCODES", 500)
    assert "more than 500 opcodes" in refusal(tmp_path / "x.pkl", whole)


@contextmanager
def small_memory(extra: int = 600 * 2**20) -> Iterator[None]:
    """No more address space than there is now and a little: reserving what a file announces fails."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="module")
def whole() -> bytes:
    return dumps(snapshot(tiny()))


SNIPPETS = [
    b"cos\nsystem\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b"\x85R",
    b"}b",
    b"\x96" + b"\xff" * 8,
    b"\x8e" + b"\x7f" * 8,
    b"r\xff\xff\xff\x7f",
    b"(",
    b"t",
    b".",
    b"\x94",
    b"h\x01",
    b"j\xff\xff\xff\xff",
    b"\x93",
    b"\x81",
    b"b",
    b"0",
    b"2",
]
edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "copy", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from(SNIPPETS)),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, changes: list[tuple[str, float, bytes, int]]) -> bytes:
    for kind, where, piece, length in changes:
        i = int(where * len(data))
        if kind == "set":
            data = data[:i] + piece + data[i + len(piece) :]
        elif kind == "insert":
            data = data[:i] + piece + data[i:]
        elif kind == "delete":
            data = data[:i] + data[i + length :]
        elif kind == "copy":
            data = data[:i] + data[i // 2 : i // 2 + length] + data[i:]
        elif i > 0:
            data = data[:i]
    return data


@settings(
    max_examples=120, deadline=20_000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=edits)
def test_a_mutated_file_is_read_or_refused(
    whole: bytes, tmp_path: Path, changes: list[tuple[str, float, bytes, int]]
) -> None:
    path = tmp_path / "fuzz.pkl"
    path.write_bytes(edited(whole, changes))
    with small_memory():
        try:
            found = read_snapshot(path).denoiser
        except InputError as e:
            assert str(path) in str(e)
            assert "\n" not in str(e)
        else:
            assert all(v.dtype == torch.float32 for v in found.state_dict().values())


def test_mutations_reach_every_part_of_the_reader(whole: bytes) -> None:
    # The file is small enough for a few hundred edits to hit its opcodes, not only its numbers.
    opcodes = sum(1 for _ in pickletools.genops(whole))
    assert opcodes > 2000
    assert len(whole) < 100_000
