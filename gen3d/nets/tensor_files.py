"""Files of tensors from torch.save and safetensors: nothing in them is executed, and nothing is allocated that they do not hold."""

from __future__ import annotations

import codecs
import math
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.core.files import open_regular, require_regular

NUMBERS: list[Any] = [
    *[(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")],
    np.dtype,
    *{type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")},
    codecs.encode,
]
"""What NumPy numbers in a file are restored with, such as a best loss next to the weights; none of it executes code."""

ITEM_BYTES = {
    **dict.fromkeys(("BoolStorage", "ByteStorage", "CharStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
LEGACY_PARTS = 3
"""Before the content of a file of torch.save without a zip archive: a mark, a version, a machine."""
NESTING = 64


def load_tensors(path: Path) -> Any:
    """What a file of torch.save or safetensors (by its suffix) holds: tensors on the CPU in nested dictionaries.

    Raises:
        OSError: missing or no regular file.
        pickle.UnpicklingError: reading it would execute something.
        ValueError: damaged, or tensors that are larger than what the file holds of them; with the reason.
    """
    require_regular(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_claims(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMBERS):
            warnings.simplefilter("ignore")  # a warning about the file's age is no reason to stop
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, ValueError):
        raise
    except (SafetensorError, RuntimeError, EOFError, LookupError, AttributeError, TypeError, MemoryError) as error:
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from None
    size = path.stat().st_size
    for tensor in _tensors(tree):
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
            raise ValueError("a tensor of a kind that weights are not")
        if tensor.numel() * tensor.element_size() > size:
            raise ValueError(f"a tensor of {tensor.numel():,} numbers in a file of {size:,} bytes")
    return tree


def require_finite(tensors: Mapping[str, Tensor], path: Path, remedy: str) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        UserError: naming the file and the first tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: {name} holds NaN or infinite weights, so no figure can come of it; {remedy}.")


def _tensors(tree: Any, depth: int = 0) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping | list | tuple) and depth < NESTING:
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _tensors(value, depth + 1)


class _Inert:
    """What stands for everything that a pickle names, so that it can be read without executing any of it."""

    claims: ClassVar[bool] = False

    def __new__(cls, *given: Any, **named: Any) -> _Inert:
        if cls.claims and any(isinstance(value, int) for value in given):
            raise ValueError(f"it would allocate a {cls.__name__}")
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Of list-like objects."""

    def extend(self, values: Any) -> None:
        """Of list-like objects."""


class _Claims(pickle.Unpickler):
    """Collects the storages that a pickle of torch.save asks for: name -> bytes."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, encoding="latin1")
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        allocates = name.endswith(("Storage", "Tensor", "bytearray")) or name in ("zeros", "empty", "ones", "full")
        return type(name, (_Inert,), {"claims": allocates})

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) >= 5 and isinstance(pid[4], int):
            kind = getattr(pid[1], "__name__", "")
            bytes_each = ITEM_BYTES.get(kind, 8)
            self.storages[str(pid[2])] = max(self.storages.get(str(pid[2]), 0), pid[4] * bytes_each)
        return _Inert()


def _check_claims(path: Path) -> None:
    """Compare what a file of torch.save asks for with what it holds, before anything is allocated.

    Raises:
        ValueError: it asks for more.
    """
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        with open_regular(path) as stream:
            _check_legacy(stream, size)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            held = {item.filename: item.file_size for item in archive.infolist()}
            if sum(held.values()) > size:
                raise ValueError(f"{sum(held.values()):,} bytes when unpacked, in a file of {size:,}")
            for name in held:
                folder, _, last = name.rpartition("/")
                if last == "data.pkl":
                    _check_archive(archive, folder, held)
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None


def _check_archive(archive: zipfile.ZipFile, folder: str, held: Mapping[str, int]) -> None:
    with archive.open(f"{folder}/data.pkl") as stream:
        for name, num_bytes in _storages(stream).items():
            if num_bytes > held.get(f"{folder}/data/{name}", 0):
                raise ValueError(f"a tensor of {num_bytes:,} bytes, of which the file holds fewer")


def _check_legacy(stream: BufferedReader, size: int) -> None:
    for _ in range(LEGACY_PARTS):
        _storages(stream)
    claimed = sum(_storages(stream).values())
    if claimed > size:
        raise ValueError(f"tensors of {claimed:,} bytes in a file of {size:,}")


def _storages(stream: Any) -> dict[str, int]:
    claims = _Claims(stream)
    try:
        claims.load()
    except (ValueError, OSError):
        raise
    except Exception as error:  # a pickle that is damaged may raise anything
        raise ValueError(f"damaged: {(str(error).splitlines() or [type(error).__name__])[0]}") from None
    if any(not 0 <= num_bytes < math.inf for num_bytes in claims.storages.values()):
        raise ValueError("a tensor of a negative size")
    return claims.storages
