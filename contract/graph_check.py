"""What an ONNX file may contain before any library opens it: a plain graph that carries its own weights.

Refused are weights in other files, which no digest covers; nodes with graphs inside (Loop, Scan, If), which may never
end, or only for some captures; functions, which may unfold without end; operators of other domains; and tensors that
say they are larger than their bytes. What a plain graph computes is bounded by its shapes; memory and time for that
are limited while an engine is opened.

ONNX is protobuf (https://protobuf.dev/programming-guides/encoding). The package `onnx` would read these files too, but
workers do not have it, and it reads all of a file before one can ask how large that is. Where a field comes twice,
readers take the last or join them; here each must be in order.
"""

from collections.abc import Iterator

MOST_FIELDS = 500_000
"""A network of 10,000 nodes has about 150,000."""
MOST_PER_BYTE = 8
"""Elements that a byte can hold; the smallest type takes two bits today."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Numbers of fields, from onnx.proto
_MODEL_GRAPH, _MODEL_IMPORTS, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 20, 25
_IMPORT_DOMAIN = 1
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE = (22, 23)
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14
_DOMAINS = (b"", b"ai.onnx")


def check_graph(data: bytes) -> None:
    """Raise ValueError, which says why, unless these bytes are a plain ONNX graph that carries its own weights."""
    graphs = 0
    fields = _Fields(data)
    for number, value in fields.of(0, len(data)):
        if number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise ValueError("it has functions or training steps; export it as one plain graph")
        if number == _MODEL_IMPORTS:
            for inner, domain in fields.of(*_part(value)):
                if inner == _IMPORT_DOMAIN:
                    _check_domain(data, domain)
        if number == _MODEL_GRAPH:
            graphs += 1
            _check_parts(fields, data, value)
    if graphs != 1:
        raise ValueError("it is no ONNX model with a graph")


def _check_parts(fields: "_Fields", data: bytes, graph: "_Value") -> None:
    for number, value in fields.of(*_part(graph)):
        if number == _GRAPH_NODE:
            _check_node(fields, data, value)
        elif number == _GRAPH_INITIALIZER:
            _check_tensor(fields, value)
        elif number == _GRAPH_SPARSE:
            raise ValueError("it has sparse weights, which the trainer does not write")


def _check_node(fields: "_Fields", data: bytes, node: "_Value") -> None:
    for number, value in fields.of(*_part(node)):
        if number == _NODE_DOMAIN:
            _check_domain(data, value)
        if number != _NODE_ATTRIBUTE:
            continue
        for inner, part in fields.of(*_part(value)):
            if inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                raise ValueError("a node has a graph inside (Loop, Scan or If), which may never end")
            if inner in _ATTRIBUTE_SPARSE:
                raise ValueError("it has sparse weights, which the trainer does not write")
            if inner in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                _check_tensor(fields, part)


def _check_tensor(fields: "_Fields", tensor: "_Value") -> None:
    begin, end = _part(tensor)
    elements = 1
    for number, value in fields.of(begin, end):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise ValueError("weights lie in another file, which no digest covers; export it with its weights inside")
        if number == _TENSOR_DIMS:
            for side in [value] if isinstance(value, int) else fields.varints(*value):
                elements *= side
                if elements > MOST_PER_BYTE * (end - begin):  # a negative side is a number above 2^63 here
                    raise ValueError(
                        f"a tensor says that it has {elements:,} elements or more, which its {end - begin:,} bytes "
                        "cannot hold"
                    )


def _check_domain(data: bytes, value: "_Value") -> None:
    begin, end = _part(value)
    if data[begin:end] not in _DOMAINS:
        raise ValueError("it has operators that are not from ONNX itself")


_Value = int | tuple[int, int]
"""A number, or where the bytes of a field begin and end."""


def _part(value: _Value) -> tuple[int, int]:
    if isinstance(value, int):
        raise ValueError("it is no ONNX model: a part of it is a number")
    return value


class _Fields:
    """Reads the fields of protobuf messages; raises ValueError for what is none, and beyond MOST_FIELDS."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MOST_FIELDS

    def of(self, begin: int, end: int) -> Iterator[tuple[int, _Value]]:
        """Number and value of each field of the message in these bytes; of fixed numbers, where they are."""
        while begin < end:
            self._count()
            tag, begin = self._varint(begin, end)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise ValueError("it is no ONNX model: not protobuf")
            if kind == _VARINT:
                value, begin = self._varint(begin, end)
                yield number, value
                continue
            if kind == _BYTES:
                size, begin = self._varint(begin, end)
            elif kind in (_FIXED64, _FIXED32):
                size = 8 if kind == _FIXED64 else 4
            else:
                raise ValueError("it is no ONNX model: not protobuf")
            if size > end - begin:
                raise ValueError("it is no ONNX model, or cut short")
            yield number, (begin, begin + size)
            begin += size

    def varints(self, begin: int, end: int) -> Iterator[int]:
        """The numbers that are packed into these bytes."""
        while begin < end:
            self._count()
            value, begin = self._varint(begin, end)
            yield value

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it has more than {MOST_FIELDS:,} parts")

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        """The number that begins here, and where the next one begins."""
        value = 0
        for shift in range(0, 70, 7):
            if place >= end:
                raise ValueError("it is no ONNX model, or cut short")
            byte = self._data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (1 << 64) - 1, place
        raise ValueError("it is no ONNX model: not protobuf")
