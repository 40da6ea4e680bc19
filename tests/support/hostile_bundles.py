"""Bundles that somebody made to harm, or that a bad copy made: what a worker must survive, and answer with a sentence.

Each is a sound bundle that one function has changed. Most are written again, digests and all: the harm is not that a
file was changed, but what the bundle says.
"""

import io
import json
import os
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from contract.bundle import EXPECTED, GOLDEN, HALF_MODEL, MANIFEST, MODEL, SPLIT
from contract.novelty import ARRAYS
from contract.novelty import FILE as REFERENCE
from contract.proof import FILE as PROOF
from tests.support.archives import encode, jpeg
from tests.support.bundles import SIZE, graph

Document = dict[str, Any]
GIB = 2**30


@dataclass(frozen=True)
class Hostile:
    """What is done to a sound bundle, a regular expression for what is said, and when: whenever the bundle is opened;
    only when its engine is, so that a submit takes it; or at a submit alone.
    """

    harm: Callable[[Path], object]
    says: str
    at: Literal["opening", "engine", "submit"] = "opening"

    def make(self, sound: Path, folder: Path) -> Path:
        """A copy of the sound bundle in `folder`, harmed."""
        shutil.copytree(sound, folder)
        self.harm(folder)
        return folder


def digests(folder: Path) -> dict[str, str]:
    """Of all that lie in a bundle's folder and can be read without end."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink()]
    return {
        file.relative_to(folder).as_posix(): sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.name != MANIFEST
    }


def rewritten(folder: Path, change: Callable[[Document], object] = lambda _: None) -> None:
    """Write the manifest again: it lists what lies there, and then `change` changes it."""
    document = json.loads((folder / MANIFEST).read_bytes())
    document["files"] = digests(folder)
    change(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def manifest(change: Callable[[Document], object]) -> Callable[[Path], None]:
    return lambda folder: rewritten(folder, change)


def listed(name: str, digest: str = "0" * 64) -> Callable[[Path], None]:
    """The manifest lists one more file."""
    return manifest(lambda document: document["files"].update({name: digest}))


def content(name: str, data: bytes) -> Callable[[Path], None]:
    """A file has this content, and the manifest its digest."""

    def harm(folder: Path) -> None:
        (folder / name).write_bytes(data)
        rewritten(folder)

    return harm


def unlisted(name: str, data: bytes = b"anything") -> Callable[[Path], None]:
    """A file lies in the folder, and the manifest does not list it."""

    def harm(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    return harm


def sparse(name: str, size: int) -> Callable[[Path], None]:
    """A file says that it has this many bytes, which take no room."""

    def harm(folder: Path) -> None:
        with (folder / name).open("r+b") as stream:
            stream.truncate(size)

    return harm


def replaced(name: str, by: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something that is no file lies in a file's place; the digests stay."""

    def harm(folder: Path) -> None:
        (folder / name).unlink()
        by(folder / name)

    return harm


def moved_away(name: str) -> Callable[[Path], None]:
    """A link leads to where the file or folder is now."""

    def harm(folder: Path) -> None:
        outside = folder.with_name(f"{folder.name}.outside")
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return harm


def bound_socket(path: Path) -> None:
    place = Path.cwd()
    os.chdir(path.parent)  # the address of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(place)


# Graphs


def changed_graph(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        model = graph()
        change(model)
        content(MODEL, model.SerializeToString())(folder)

    return harm


def external(model: onnx.ModelProto, location: str = "weights.bin") -> None:
    """One weight lies in another file."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    _in_file(tensor, location)


def external_constant(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "value")
    _in_file(tensor, "weights.bin")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=tensor))


def _in_file(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location


def with_external_file(folder: Path) -> None:
    """Even where the other file is listed, it is another file when it is read later."""
    (folder / "weights.bin").write_bytes(np.zeros(4, np.float32).tobytes())
    changed_graph(external)(folder)


def _body(inputs: list[str], outputs: list[str], nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    kinds = {"condition": TensorProto.BOOL, "go_on": TensorProto.BOOL, "count": TensorProto.INT64}
    values = [
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in names]
        for names in (inputs, outputs)
    ]
    return helper.make_graph(nodes, "body", *values)


def _between(model: onnx.ModelProto, nodes: list[onnx.NodeProto], made: str) -> None:
    """Put nodes between `features` and those that use it, which then use `made`."""
    for node in model.graph.node:
        node.input[:] = [made if name == "features" else name for name in node.input]
    place = next(i for i, node in enumerate(model.graph.node) if "features" in node.output) + 1
    for offset, node in enumerate(nodes):
        model.graph.node.insert(place + offset, node)


def endless_loop(model: onnx.ModelProto) -> None:
    body = _body(
        ["count", "condition", "before"], ["go_on", "after"],
        [helper.make_node("Identity", ["condition"], ["go_on"]), helper.make_node("Abs", ["before"], ["after"])],
    )  # fmt: skip
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.int64(2**62), "rounds"), numpy_helper.from_array(np.bool_(True), "true")]
    )
    _between(model, [helper.make_node("Loop", ["rounds", "true", "features"], ["looped"], body=body)], "looped")


def branch(model: onnx.ModelProto) -> None:
    parts = [_body([], ["same"], [helper.make_node("Identity", ["features"], ["same"])]) for _ in range(2)]
    model.graph.initializer.append(numpy_helper.from_array(np.bool_(True), "true"))
    _between(model, [helper.make_node("If", ["true"], ["same_"], then_branch=parts[0], else_branch=parts[1])], "same_")


def unfolding_functions(model: onnx.ModelProto) -> None:
    """Each of 60 functions calls the one before it twice."""
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    names = ["Abs", *(f"f{number}" for number in range(60))]
    for inner, outer in pairwise(names):
        domain = "" if inner == "Abs" else "f"
        nodes = [helper.make_node(inner, [a], [b], domain=domain) for a, b in (("x", "y"), ("y", "z"))]
        model.functions.append(helper.make_function("f", outer, ["x"], ["z"], nodes, imports))
    model.opset_import.append(helper.make_opsetid("f", 1))
    _between(model, [helper.make_node("f59", ["features"], ["unfolded"], domain="f")], "unfolded")


def custom_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    _between(model, [helper.make_node("Anything", ["features"], ["made"], domain="com.example")], "made")


def dims(*sides: int) -> Callable[[onnx.ModelProto], None]:
    """The bias says that it has this shape."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
        del tensor.dims[:]
        tensor.dims.extend(sides)

    return change


def sparse_weights(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "huge")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**40]))


def expanded(side: int, times: int = 1) -> Callable[[onnx.ModelProto], None]:
    """A plain graph that makes a square of this side out of nothing, multiplies it by itself so many times, and adds
    nothing of it.
    """

    def change(model: onnx.ModelProto) -> None:
        products = ["square", *(f"product{number}" for number in range(times))]
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.array([side, side], np.int64), "shape"),
                numpy_helper.from_array(np.array([0, 1], np.int64), "axes"),
                numpy_helper.from_array(np.zeros((), np.float32), "nothing"),
            ]
        )
        _between(
            model,
            [
                helper.make_node("ReduceMean", ["features"], ["mean"], keepdims=0),
                helper.make_node("Expand", ["mean", "shape"], ["square"]),
                *(helper.make_node("MatMul", [before, "square"], [after]) for before, after in pairwise(products)),
                helper.make_node("ReduceMax", [products[-1], "axes"], ["largest"], keepdims=0),
                helper.make_node("Mul", ["largest", "nothing"], ["zero"]),
                helper.make_node("Add", ["features", "zero"], ["same"]),
            ],
            "same",
        )

    return change


def not_a_number(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(np.nan, np.float32), "nan"))
    _between(model, [helper.make_node("Add", ["features", "nan"], ["lost"])], "lost")


def other_weights(model: onnx.ModelProto) -> None:
    """Every capture is benign."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    tensor.CopyFrom(numpy_helper.from_array(np.array([1000, 0, 0, 0], np.float32), "bias"))


def nested_types(depth: int) -> bytes:
    """A graph whose first input is a sequence of sequences of sequences."""
    inner = b""
    for _ in range(depth):
        inner = _field(4, _field(1, inner))  # TypeProto.sequence_type, Sequence.elem_type
    return _field(7, _field(11, _field(1, b"captures") + _field(2, inner)))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


# Arrays and pictures


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def zipped(name: str, data: bytes, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def npy(shape: str) -> bytes:
    """The head of an array of this shape, and none of its numbers."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def sound_reference() -> dict[str, np.ndarray]:
    """A reference for the embedding [N, 3] of the colours, to which nothing is novel."""
    return {
        "mean_0": np.zeros(3, np.float32), "components_0": np.eye(3, dtype=np.float32),
        "class_means_0": np.zeros((4, 3), np.float32), "precision_0": np.eye(3, dtype=np.float32),
    }  # fmt: skip


def reference(data: bytes | None, threshold: object = 100.0, **more: object) -> Callable[[Path], None]:
    """The manifest says that there is a reference, and the file has this content; with None there is no file."""

    def harm(folder: Path) -> None:
        if data is not None:
            (folder / REFERENCE).write_bytes(data)
        blocks = [{"begin": 0, "end": 3, "threshold": threshold}]
        rewritten(folder, lambda d: d.update(reference={"novelty": {"blocks": blocks, **more}}))

    return harm


def unlisted_reference(folder: Path) -> None:
    reference(npz(**sound_reference()))(folder)
    document = json.loads((folder / MANIFEST).read_bytes())
    del document["files"][REFERENCE]
    (folder / MANIFEST).write_text(json.dumps(document))


def proof(jpeg_bytes: bytes, count: int = 1, value: float = 0.25) -> bytes:
    return npz(
        jpeg=np.frombuffer(jpeg_bytes, np.uint8), ends=np.array([len(jpeg_bytes)] * count),
        probabilities=np.full((count, 4), value, np.float32), excluded=np.zeros(count, bool),
    )  # fmt: skip


def huge_jpeg() -> bytes:
    """A small file that says it has 65,500 x 65,500 pixels."""
    data = bytearray(jpeg("Pro", size=(SIZE, SIZE)))
    place = data.index(b"\xff\xc0")  # start of frame: length, depth, height, width
    data[place + 5 : place + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def huge_png() -> bytes:
    data = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    return bytes(data)


def golden(change: Callable[[Document], object]) -> Callable[[Path], None]:
    """expected.json says something else."""

    def harm(folder: Path) -> None:
        document = json.loads((folder / EXPECTED).read_bytes())
        change(document)
        content(EXPECTED, json.dumps(document).encode())(folder)

    return harm


NESTED = b'{"schema_version": 1, "reference": {"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}}"
FIRST = f"{GOLDEN}/000.jpg"
NO_DIGEST = "does not match its digest"
NO_FILE = r"cannot be read \("
OUTSIDE = "leads out of the bundle"
NOT_LISTED = "does not list it"
NOT_VALID = f"{MANIFEST} is not valid"
NO_GOLDEN = "golden captures cannot be read"
REFUSED = rf"{MODEL} is refused: "
ELSEWHERE = REFUSED + "weights lie in another file"

HOSTILE = {
    # what lies in a file's place
    "a pipe as graph": Hostile(replaced(MODEL, os.mkfifo), NO_FILE),
    "a pipe as golden capture": Hostile(replaced(FIRST, os.mkfifo), NO_FILE),
    "a pipe as manifest": Hostile(replaced(MANIFEST, os.mkfifo), NO_FILE),
    "a socket as graph": Hostile(replaced(MODEL, bound_socket), NO_FILE),
    "a folder as graph": Hostile(replaced(MODEL, Path.mkdir), NO_FILE),
    "no graph": Hostile(lambda folder: (folder / MODEL).unlink(), NO_FILE),
    "a link as graph": Hostile(moved_away(MODEL), OUTSIDE),
    "a link as folder of golden captures": Hostile(moved_away(GOLDEN), OUTSIDE + "|" + NOT_LISTED),
    "a link as manifest": Hostile(moved_away(MANIFEST), OUTSIDE),
    "a link to endless zeros": Hostile(replaced(FIRST, lambda path: path.symlink_to("/dev/zero")), OUTSIDE),
    "a graph of 3 GiB": Hostile(sparse(MODEL, 3 * GIB), "bytes, at most"),
    "a manifest of 2 GiB": Hostile(sparse(MANIFEST, 2 * GIB), "bytes, at most"),
    "golden answers of 1 GiB": Hostile(sparse(EXPECTED, GIB), "bytes, at most"),
    "a graph of another bundle": Hostile(lambda folder: (folder / MODEL).write_bytes(b"other"), NO_DIGEST),
    # names in the manifest
    "a file beside the bundle": Hostile(listed("../outside.bin"), OUTSIDE),
    "a file through the bundle": Hostile(listed(f"{GOLDEN}/../../outside.bin"), OUTSIDE),
    "a file of the system": Hostile(listed("/etc/passwd"), OUTSIDE),
    "a device": Hostile(listed("/dev/zero"), OUTSIDE),
    "a name that moves the cursor": Hostile(listed("a\x1b[2J.html"), NOT_VALID),
    "a name with a line break": Hostile(listed("a\nscreen: done"), NOT_VALID),
    "a name with a zero": Hostile(listed("a\0b"), NOT_VALID),
    "a name that is no text": Hostile(listed("a\ud800"), NOT_VALID),
    "a manifest that lists itself": Hostile(listed(MANIFEST), NOT_VALID),
    "20,000 names": Hostile(manifest(lambda d: d["files"].update({f"{n}.html": "" for n in range(20_000)})), NOT_VALID),
    # what is not listed
    "unlisted weights": Hostile(unlisted("model.safetensors"), NOT_LISTED),
    "an unlisted graph for half precision": Hostile(unlisted(HALF_MODEL), NOT_LISTED),
    "an unlisted golden capture": Hostile(unlisted(f"{GOLDEN}/004.jpg"), NOT_LISTED),
    "an unlisted folder": Hostile(unlisted("more/weights.bin"), NOT_LISTED),
    "an unlisted hidden file": Hostile(unlisted(".weights"), NOT_LISTED),
    "an unlisted reference": Hostile(unlisted_reference, NOT_LISTED),
    "an unlisted manifest below": Hostile(unlisted(f"{GOLDEN}/{MANIFEST}"), NOT_LISTED),
    # JSON
    "a manifest nested without end": Hostile(unlisted(MANIFEST, NESTED), NOT_VALID),
    "golden answers nested without end": Hostile(content(EXPECTED, NESTED), NO_GOLDEN),
    "a manifest that is no text": Hostile(unlisted(MANIFEST, b"\xff\xfe\0"), NOT_VALID),
    "a number of a million digits": Hostile(
        unlisted(MANIFEST, b'{"schema_version": 1' + b"0" * 1_000_000 + b"}"), NOT_VALID
    ),
    "any difference tolerated": Hostile(
        manifest(lambda d: d.update(golden_tolerance={"float32": float("inf")})), NOT_VALID
    ),
    "a tolerance that is not a number": Hostile(
        manifest(lambda d: d.update(golden_tolerance={"float32": float("nan")})), NOT_VALID
    ),
    "thresholds that are not numbers": Hostile(
        manifest(lambda d: d["case_policy"].update(all_at_least=float("nan"))), NOT_VALID
    ),
    "a key that moves the cursor": Hostile(manifest(lambda d: d.update({"\x1b[2J": 1})), NOT_VALID),
    "100,000 unknown keys": Hostile(manifest(lambda d: d.update({f"{n}": 1 for n in range(100_000)})), NOT_VALID),
    "a golden capture elsewhere": Hostile(
        golden(lambda d: d["captures"][0].update(file="../../../../etc/passwd")), "does not list golden/"
    ),
    "golden answers that are not numbers": Hostile(
        golden(lambda d: d["captures"][0].update(probabilities=[float("nan")] * 4)), NO_GOLDEN
    ),
    "a million golden captures": Hostile(golden(lambda d: d.update(captures=d["captures"] * 2500)), NO_GOLDEN),
    # graphs that a look refuses
    "weights in a listed file": Hostile(with_external_file, ELSEWHERE),
    "weights in a file of the system": Hostile(changed_graph(lambda m: external(m, "/etc/passwd")), ELSEWHERE),
    "weights outside": Hostile(changed_graph(lambda m: external(m, "../../weights.bin")), ELSEWHERE),
    "a constant in another file": Hostile(changed_graph(external_constant), ELSEWHERE),
    "an endless loop": Hostile(changed_graph(endless_loop), REFUSED + "a node has a graph inside"),
    "a branch": Hostile(changed_graph(branch), REFUSED + "a node has a graph inside"),
    "functions that unfold without end": Hostile(changed_graph(unfolding_functions), REFUSED + "it has "),
    "an operator of another domain": Hostile(changed_graph(custom_operator), REFUSED + "it has operators"),
    "weights of a terabyte": Hostile(changed_graph(dims(2**20, 2**20)), REFUSED + "a tensor says"),
    "weights of fewer than none": Hostile(changed_graph(dims(-1)), REFUSED + "a tensor says"),
    "weights of more than 64 bits": Hostile(changed_graph(dims(*[2**62] * 1000)), REFUSED + "a tensor says"),
    "sparse weights": Hostile(changed_graph(sparse_weights), REFUSED + "it has sparse weights"),
    "two graphs": Hostile(content(MODEL, graph().SerializeToString() * 2), REFUSED),
    "half a graph": Hostile(content(MODEL, graph().SerializeToString()[:-100]), REFUSED),
    "no bytes as graph": Hostile(content(MODEL, b""), REFUSED),
    "a graph of another library": Hostile(content(MODEL, b'<?xml version="1.0"?><net name="a"/>'), REFUSED),
    "ten million parts": Hostile(content(MODEL, b"\x08\x01" * 10_000_000), REFUSED + "it has more than"),
    "a graph for half precision with a loop": Hostile(
        lambda folder: (
            changed_graph(endless_loop)(folder),
            (folder / MODEL).rename(folder / HALF_MODEL),
            content(MODEL, graph().SerializeToString())(folder),
        ),
        rf"{HALF_MODEL} is refused: a node has a graph inside",
    ),
    # what only an engine finds out
    "types nested without end": Hostile(content(MODEL, nested_types(2_000)), "engine|Open[Vv]INO|ONNX", at="engine"),
    "a graph that takes a terabyte": Hostile(changed_graph(expanded(2**19)), "bundle|engine", at="engine"),
    "a graph that takes hours": Hostile(changed_graph(expanded(4_000, 2_000)), "OPEN_SECONDS", at="engine"),
    "answers that are not numbers": Hostile(changed_graph(not_a_number), "does not reproduce", at="engine"),
    "answers that are all benign": Hostile(changed_graph(other_weights), "does not reproduce", at="engine"),
    "another tensor's name": Hostile(
        manifest(lambda d: d["outputs"].update(embedding="nothing")), "has no tensor", at="engine"
    ),
    "labels that the graph does not have": Hostile(
        manifest(lambda d: d["labels"].append("Other")), "bundle|shape|label", at="engine"
    ),
    "a golden capture that is text": Hostile(content(FIRST, b"notes"), "golden captures are unusable", at="engine"),
    "a golden capture of 3,600 megapixels": Hostile(
        content(FIRST, huge_png()), "golden captures are unusable", at="engine"
    ),
    "a reference of 16 GB in a head": Hostile(
        reference(zipped("mean_0.npy", npy("(4000000000,)"))), rf"{REFERENCE} cannot be read", at="engine"
    ),
    "a reference of 1 GB in a member": Hostile(
        reference(zipped("mean_0.npy", npy("(75000000,)") + bytes(300_000_000))),
        rf"{REFERENCE} cannot be read",
        at="engine",
    ),
    "a reference packed by another method": Hostile(
        reference(zipped("mean_0.npy", npy("(3,)") + bytes(12), zipfile.ZIP_LZMA)),
        rf"{REFERENCE} cannot be read",
        at="engine",
    ),
    "a reference with a program inside": Hostile(
        reference(npz(**{name: np.array([{}], object) for name in sound_reference()})),
        rf"{REFERENCE} cannot be read",
        at="engine",
    ),
    "a reference of other shapes": Hostile(
        reference(npz(**{f"{name}_0": np.zeros((2, 2), np.float32) for name in ARRAYS})),
        rf"{REFERENCE} cannot be read",
        at="engine",
    ),
    "a reference that knows everything": Hostile(
        reference(npz(**sound_reference()), threshold=1e999),
        NOT_VALID + rf"|{REFERENCE} cannot be read",
        at="engine",
    ),
    "a reference beside the bundle": Hostile(
        reference(npz(**sound_reference()), others=[{"file": "../other.npz", "blocks": []}]),
        "does not list",
        at="engine",
    ),
    "a reference without a file": Hostile(reference(None), "does not list", at="engine"),
    "a proof that is no archive": Hostile(content(PROOF, b"PK\3\4"), rf"{PROOF} cannot be read", at="engine"),
    "a proof of 4 gigapixels": Hostile(content(PROOF, proof(huge_jpeg())), rf"{PROOF} cannot be read", at="engine"),
    "a proof whose answers are not numbers": Hostile(
        content(PROOF, proof(jpeg("Pro", size=(SIZE, SIZE)), value=float("nan"))),
        rf"{PROOF} cannot be read",
        at="engine",
    ),
    # what a submit stores
    "a split without digests": Hostile(
        content(SPLIT, b"sha256,split\n\x1b[2J,train\n"), rf"{SPLIT} cannot be read", "submit"
    ),
    "a split that is no table": Hostile(content(SPLIT, b"\xff\xfe\0\0" * 10), rf"{SPLIT} cannot be read", "submit"),
}
"""name -> what it is. Digests are right wherever its maker could make them so."""
