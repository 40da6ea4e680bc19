"""Choosing the engine: the fastest one that is installed, finds its device, and decides as the bundle says."""

import importlib
from dataclasses import replace
from typing import Any

import structlog

from contract.bundle import Bundle
from contract.caches import give_libraries_a_home
from contract.errors import EngineError
from worker.engines.base import Engine, EngineOptions, NotUsable
from worker.engines.close_calls import CloseCalls, Doubt
from worker.engines.proving import Proof, prove, prove_sizes

log = structlog.get_logger(__name__)

ENGINES = {
    "tensorrt": "worker.engines.tensorrt:TensorRTEngine",
    "openvino": "worker.engines.openvino:OpenVINOEngine",
    "onnxruntime": "worker.engines.onnxruntime:ONNXRuntimeEngine",
}
"""name -> module:class, in the order in which `auto` tries them. A module is imported when it is tried: in the worker's
child, never in its parent. Besides the protocol `Engine`, a class has `precisions(bundle)`: the precisions in which it
can run the bundle here, the fastest first. It is opened as `cls(bundle, precision, options)`. Both raise NotUsable.
"""


def open_engine(bundle: Bundle, options: EngineOptions) -> tuple[Engine, Proof]:
    """Open an engine on a bundle whose digests were checked, and prove it.

    An engine or precision that `options` names is used, or it is an error. "auto" uses the first that works, and logs
    why the ones before it did not.

    Raises EngineError with every reason.
    """
    names = list(ENGINES) if options.engine == "auto" else [options.engine]
    refused: list[EngineError] = []
    for name in names:
        try:
            cls = load(name)
            precisions = cls.precisions(bundle) if options.precision == "auto" else [options.precision]
        except NotUsable as error:
            log.debug("engine not usable", engine=name, reason=str(error))
            refused.append(error)
            continue
        for precision in precisions:
            try:
                return _opened(cls, bundle, precision, options)
            except EngineError as error:
                refused.append(error)
                if not isinstance(error, NotUsable):
                    log.warning("engine refused", engine=name, precision=precision, reason=str(error))
    if len(refused) == 1:
        raise refused[0]
    raise EngineError("no engine can run the bundle: " + "; ".join(map(str, refused)))


def _opened(cls: Any, bundle: Bundle, precision: str, options: EngineOptions) -> tuple[Engine, Proof]:
    """A proved engine in this precision. Below float32, a second engine in float32 decides its close calls, one by one.
    Engines that were opened are closed again where one is refused.
    """
    opened: list[Engine] = []
    try:
        engine: Engine = cls(bundle, precision, options)
        opened.append(engine)
        if precision == "float32":
            return engine, prove(engine, bundle)
        exact: Engine = cls(bundle, "float32", replace(options, batch_size=1))
        opened.append(exact)
        prove(exact, bundle, with_hidden=False)
        prove_sizes(exact, bundle, 1)  # close calls come one by one
        both = CloseCalls(engine, exact, Doubt.of(bundle, precision))
        return both, prove(both, bundle, exact)
    except BaseException:
        for opened_engine in opened:
            opened_engine.close()
        raise


def load(name: str) -> Any:
    """The class of an engine. Raises NotUsable where its library is not installed."""
    module, attribute = ENGINES[name].split(":")
    give_libraries_a_home()
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise NotUsable(f"{name} is not installed ({error})") from error
