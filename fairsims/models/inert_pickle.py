"""Reads pickled networks as plain data: the opcodes are interpreted here, and every name they use is a stand-in.

Python's own unpickler calls what a file tells it to call. Restricting its names still leaves lengths and memo positions
that make it reserve memory at will, so this reader goes through the opcodes itself (`pickletools` splits them) and
knows only those, and only the names, that a snapshot of NVlabs/edm or NVlabs/edm2 consists of.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairsims.errors import InputError

OF_A_STORAGE = {
    *("PROTO", "STOP", "MARK", "BINPUT", "BINGET", "GLOBAL", "BINPERSID"),
    *("NONE", "NEWTRUE", "LONG1", "BININT", "BININT1", "BININT2", "BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "EMPTY_LIST", "APPEND", "EMPTY_DICT", "SETITEMS"),
}
"""Opcodes of the pickles in a storage."""
MAX_BYTES = 8 * 2**30
MAX_OPCODES = 1_000_000
"""A network of 300 M parameters takes about 70,000."""
MAX_ARRAY = 4096
"""Most numbers in an array of numpy's; EDM2 keeps four, the scales of a VAE's channels."""
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Persistent:
    """An object with embedded source (`torch_utils.persistence` of NVlabs), which is kept as text and never run."""

    class_name: str
    module_src: str
    state: dict[str, Any]


class Bag:
    """A `ModuleDict`: its attributes, and nothing else of it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}


class DType:
    """A numpy dtype of one number."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"


class Array:
    """A numpy array of a few numbers."""

    def __init__(self) -> None:
        self.values: list[float] = []


def read_pickle(data: bytes) -> Any:
    """The content of a pickle of protocol 4 or 5: dicts, lists (also for sets), tuples, numbers, text, bytes, tensors,
    `Persistent` objects, `Bag`s and `Array`s.

    Raises InputError that says what is wrong: a name or an opcode outside the list, a storage that is too short, a
    damaged or truncated file.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"it has {len(data)} bytes; expected {MAX_BYTES} at most")
    if data[:2] not in (b"\x80\x04", b"\x80\x05"):
        raise InputError("it is no pickle of protocol 4 or 5; expected a snapshot as NVlabs/edm writes it")
    try:
        return _Machine().run(data)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, RuntimeError) as e:
        raise InputError(f"it is damaged or no pickle ({first_line(e)}); download or copy it again") from None


class _Machine:
    """The stack machine of the pickle format, without classes, calls or imports."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: list[Any] = []
        self.storages: dict[int, tuple[bytes, Tensor]] = {}

    def run(self, data: bytes) -> Any:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            if count > MAX_OPCODES:
                raise InputError(f"it has more than {MAX_OPCODES} opcodes; expected a single network")
            if opcode.name == "STOP":
                break
            self.step(opcode.name, arg)
        (value,) = self.stack
        return value

    def step(self, name: str, arg: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(arg)
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(arg)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "MEMOIZE":
                self.memo.append(stack[-1])
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[arg])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_SET" | "EMPTY_DICT":
                stack.append({"TUPLE": tuple, "LIST": list, "SET": list, "DICT": dict}[name[6:]]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple([stack.pop() for _ in range(int(name[-1]))][::-1]))
            case "MARK":
                self.marks.append(stack)
                self.stack = []
            case "TUPLE":
                items = self.above_mark()
                self.stack.append(tuple(items))
            case "APPEND" | "APPENDS" | "ADDITEMS":
                items = [stack.pop()] if name == "APPEND" else self.above_mark()
                _of(self.stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self.above_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _of(self.stack[-1], dict)[_of(key, str)] = value
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(self.find(f"{_of(module, str)}.{_of(attribute, str)}"))
            case "NEWOBJ" | "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_of(function, FunctionType)(*_of(arguments, tuple)))
            case "BUILD":
                state = stack.pop()
                self.build(stack[-1], state)
            case _:
                raise InputError(
                    f"it uses the pickle opcode {name} ({printable(arg, 20)}), which no EDM snapshot contains"
                )

    def above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def build(self, target: Any, state: Any) -> None:
        if isinstance(target, Bag):
            target.state = _of(state, dict)
        elif isinstance(target, DType):
            target.order = {"<": "<", ">": ">", "|": "|"}[_of(state, tuple)[1]]
        elif isinstance(target, Array):
            _, (length,), dtype, _, content = _of(state, tuple)
            found = np.frombuffer(_of(content, bytes), _of(dtype, DType).order + dtype.code)
            if len(found) != length or length > MAX_ARRAY:
                raise InputError(
                    f"an array in it has {len(found)} numbers and claims {printable(length)}; expected as many, "
                    f"{MAX_ARRAY} at most"
                )
            target.values = [float(v) for v in found]
        else:
            raise InputError(f"it sets the state of a {type(target).__name__}, which no EDM snapshot does")

    def find(self, name: str) -> Callable[..., Any]:
        if name == "torch.storage._load_from_bytes":
            # A method, to read each storage once however often it is asked for.
            return lambda blob: self.storage(blob)
        if name not in STAND_INS:
            raise InputError(f"it names {printable(name)}, which no EDM snapshot needs; nothing of it was executed")
        return STAND_INS[name]

    def storage(self, blob: Any) -> Tensor:
        if id(blob) not in self.storages:
            self.storages[id(blob)] = (blob, read_storage(_of(blob, bytes)))
        return self.storages[id(blob)][1]


def read_storage(blob: bytes) -> Tensor:
    """The numbers in a storage that `torch.save` wrote in its format before zip files, `(n,)`.

    Its pickles are looked through before torch sees them: one tuple that names a storage, and no length beyond the
    bytes that are there, because torch reserves what is announced before it reads.
    """
    stream = io.BytesIO(blob)
    for part in range(5):  # magic number, protocol, system, storage, keys
        for opcode, arg, _ in pickletools.genops(stream):
            allowed = range(2, 3) if opcode.name == "PROTO" else range(max(len(blob), 1001) + 1)
            if opcode.name not in OF_A_STORAGE or (part > 0 and isinstance(arg, int) and arg not in allowed):
                raise InputError(f"a storage in it has {opcode.name} ({printable(arg, 20)}), as no EDM snapshot has")
    try:
        loaded = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as e:  # of many kinds, according to where the bytes are wrong
        raise InputError(f"a storage in it is damaged ({first_line(e)}); download or copy it again") from None
    if not isinstance(loaded, torch.storage.TypedStorage) or loaded.dtype not in FLOATS:
        raise InputError(f"a storage in it holds {getattr(loaded, 'dtype', type(loaded))}; expected floating point")
    return torch.empty(0, dtype=loaded.dtype).set_(loaded)


def _tensor(flat: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`, inside the storage only."""
    if len(_of(size, tuple)) != len(_of(stride, tuple)) or len(size) > 8:
        raise InputError(f"a tensor in it has {len(size)} sizes and {len(stride)} strides; expected as many, up to 8")
    if min(_of(n, int) for n in (offset, *size, *stride)) < 0:
        raise InputError("a tensor in it has a negative offset, size or stride; download or copy it again")
    numbers = math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if numbers else offset - 1
    # More numbers than the storage has would be overlapping ones, which grow without bound when they are copied.
    if last >= len(_of(flat, Tensor)) or numbers > len(flat):
        raise InputError(
            f"a tensor in it claims {printable(max(last + 1, numbers))} numbers of a storage of {len(flat)}"
        )
    view: Tensor = flat.as_strided(size, stride, offset)
    return view


def _persistent(meta: Any) -> Persistent:
    if _of(meta, dict).get("version") != 6 or meta.get("type") != "class":
        raise InputError(
            f"an object in it has persistence version {printable(meta.get('version'))}; expected a class, version 6"
        )
    return Persistent(
        class_name=_of(meta.get("class_name"), str),
        module_src=_of(meta.get("module_src"), str),
        state=_of(meta.get("state"), dict),
    )


def _scalar(dtype: Any, content: Any) -> bool | int | float:
    # Only codes of one number are known, and reading fewer or more bytes than one fails.
    (value,) = np.frombuffer(_of(content, bytes), _of(dtype, DType).order + dtype.code)
    found: bool | int | float = value.item()
    return found


def _dtype(code: Any, *_: Any) -> DType:
    if code not in ("f8", "f4", "f2", "i8", "i4", "i2", "u1", "b1"):
        raise InputError(f"it holds a numpy number of type {printable(code)}; expected f8, i8 or the like")
    return DType(code)


STAND_INS: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_parameter": lambda data, *_: _of(data, Tensor),
    "dnnlib.util.EasyDict": lambda: {},
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.nn.modules.container.ModuleDict": lambda: Bag(),
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.dtype": _dtype,
    "numpy.ndarray": lambda: None,
    "numpy._core.multiarray._reconstruct": lambda *_: Array(),
    "numpy.core.multiarray._reconstruct": lambda *_: Array(),
}


def _of(value: Any, kind: type) -> Any:
    """`value`, which has to be of that kind. Raises TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def first_line(e: Exception) -> str:
    """What an exception says, short enough for one line."""
    return printable((str(e).splitlines() or [type(e).__name__])[0], 160)


def printable(value: object, length: int = 80) -> str:
    """Text or a number as one line of ASCII of bounded length, and only the kind of anything that might not end."""
    text = str(value) if isinstance(value, (str, int, float)) or value is None else f"a {type(value).__name__}"
    return text[:length].encode("unicode_escape").decode()
