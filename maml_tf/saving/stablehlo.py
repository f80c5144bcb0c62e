"""Functions of TensorFlow as StableHLO, which JAX alone runs, on any processor that it knows.

XLA's program of a function is lowered to StableHLO and wrapped as a `jax.export.Exported`. Writing
one needs JAX, an extra of this package; running one needs no TensorFlow; see docs/stablehlo.md.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf.saving.saved_models import describe
from maml_tf.types import Programs

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_COPY = "mhlo.copy"
"""The one operation that XLA's program has and StableHLO has not; it is its operand."""
_ALIAS = re.compile(r"parameter_number = (\d+)[^}]*}, output_index = array<i64: (\d+)>")
_INNER = "compiled"
"""XLA's program, once `main` has the parameters of JAX's structures."""


def write(place: Path, programs: Programs) -> None:
    """Writes `NAME.jax` for each program, `variables.npz`, and `maml_tf.json`.

    Args:
      place: an existing directory, such as `saved_models.replacing` gives.
      programs: what to write.
    """
    for name, program in programs.functions.items():
        (place / f"{name}.jax").write_bytes(program)
    np.savez(place / "variables.npz", **programs.variables)  # type: ignore[arg-type]
    describe(place, programs.description)


def require_jax() -> None:
    """Raises what somebody can act on where JAX is not installed.

    Raises:
      ValueError: it is not.
    """
    if importlib.util.find_spec("jax") is None:
        raise ValueError('StableHLO is written by JAX; pip install "maml-tf[stablehlo]".')


class _Captured(NamedTuple):
    """What a traced function reads beside its arguments: a variable by name, or a constant."""

    name: str | None
    value: Any


def lower(
    function: Callable,
    arguments: Mapping[str, tf.TensorSpec],
    variables: Mapping[str, Any],
    *,
    platforms: Sequence[str] = PLATFORMS,
    tf32: bool = False,
) -> bytes:
    """Lowers a function to a program `(variables, arguments) -> (moved variables, results)`.

    All four are dictionaries by name.

    Args:
      function: `(a tensor for each of the arguments) -> {name: tensor}`, which XLA can compile. It
        may read and assign variables.
      arguments: their static shapes, in the order in which the function takes them.
      variables: that the program takes, `tf.Variable`s and tensors, whether the function reads them
        or not. Tensors that it reads beside these become part of the program.
      platforms: that may run it, by JAX's names.
      tf32: let processors that have it multiply in TF32, whose factors have 10 bits.

    Returns:
      A serialized `jax.export.Exported`.

    Raises:
      ValueError: JAX is not installed, the function reads another variable, or StableHLO lacks an
        operation of it.
    """
    require_jax()
    import jax
    import jax.export
    import jax.numpy as jnp
    from jax.extend.mlir import hlo_to_stablehlo
    from jax.interpreters.mlir import make_ir_context
    from jaxlib.mlir import ir

    hlo, names, captured = _compiled(function, list(arguments.values()), variables, tf32)
    with make_ir_context(), ir.Location.unknown(), jax.enable_x64(True):
        module = ir.Module.parse(hlo_to_stablehlo(hlo))
        moved = _clean(module)
        # A structure's leaves are in the order of (part, name); names of two parts may be the same.
        read = [(0, c.name) if c.name else c.value for c in captured]
        parameters = [*((1, name) for name in arguments), *read]
        kinds, told = [_kind(t) for t in _main(module).type.results], iter(names)
        outputs = [
            parameters[moved[number]] if number in moved else (1, next(told))
            for number in range(len(kinds))
        ]

        def alike(variables, arguments):
            del variables, arguments
            made: tuple[dict, dict] = ({}, {})
            for (part, name), (shape, dtype) in zip(outputs, kinds, strict=True):
                made[part][name] = jnp.zeros(shape, dtype)
            return made

        specs = [
            {k: jax.ShapeDtypeStruct(v.shape, v.dtype.as_numpy_dtype) for k, v in part.items()}
            for part in (variables, arguments)
        ]
        shell = jax.export.export(jax.jit(alike, keep_unused=True), platforms=platforms)(*specs)
        leaves = [(part, name) for part in (0, 1) for name in sorted(specs[part])]
        _reorder(
            module,
            [_tensor(specs[part][name]) for part, name in leaves],
            [leaves.index(p) if isinstance(p, tuple) else p for p in parameters],
            sorted(range(len(outputs)), key=outputs.__getitem__),
            platform_index=len(platforms) > 1,
        )
        return bytes(
            dataclasses.replace(shell, mlir_module_serialized=_portable(module)).serialize()
        )


def _compiled(
    function: Callable, specs: list[tf.TensorSpec], variables: Mapping[str, Any], tf32: bool
) -> tuple[bytes, list[str], list[_Captured]]:
    """XLA's program of a function, its results, and its parameters behind the arguments."""
    whole = tf.function(function, autograph=False, jit_compile=True)
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(tf32)  # A mark in the program.
    try:
        concrete = whole.get_concrete_function(*specs)
        # Lowered for a CPU, where it is traced: nothing in it is of one kind of processor.
        hlo = whole.experimental_get_compiler_ir(*specs)(stage="hlo_serialized")
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
    handles = {id(getattr(v, "handle", v)): name for name, v in variables.items()}
    captured = []
    for tensor in concrete.captured_inputs:
        name = handles.get(id(tensor))
        if name is None and tensor.dtype == tf.resource:
            raise ValueError("The model reads a variable or a table that is none of its weights.")
        captured.append(_Captured(name, None if name else tensor.numpy()))
    return hlo, sorted(concrete.structured_outputs), captured


def _main(module: Any) -> Any:
    return next(f for f in module.body.operations if f.name.value == "main")


def _clean(module: Any) -> dict[int, int]:
    """Removes what is XLA's alone, and says which parameter each moved result replaces."""
    from jaxlib.mlir import ir, passmanager

    passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
    attributes = module.operation.attributes
    aliases = _ALIAS.findall(str(attributes["mhlo.input_output_alias"]))
    for name in [a if isinstance(a, str) else a.name for a in attributes]:
        if name.startswith("mhlo."):
            del attributes[name]
    copies, foreign = [], set()

    def visit(operation):
        operation = operation.operation
        if operation.name == _COPY:
            operation.results[0].replace_all_uses_with(operation.operands[0])
            copies.append(operation)
        elif operation.name == "stablehlo.custom_call":
            foreign.add(ir.StringAttr(operation.attributes["call_target_name"]).value)
        elif operation.name.partition(".")[0] not in ("stablehlo", "func", "builtin", "chlo"):
            foreign.add(operation.name)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    if foreign:
        raise ValueError(f"StableHLO has no {', '.join(sorted(foreign))}, which the model needs.")
    for operation in copies:
        operation.erase()
    return {int(result): int(parameter) for parameter, result in aliases}


def _kind(tensor: Any) -> tuple[tuple[int, ...], str]:
    """Shape and NumPy's type of a type of MLIR."""
    from jaxlib.mlir import ir

    ranked = ir.RankedTensorType(tensor)
    found = re.fullmatch(r"([a-z]+)(\d+)", str(ranked.element_type))
    assert found is not None
    names = {"f": "float", "i": "int", "ui": "uint", "bf": "bfloat"}
    return tuple(ranked.shape), "bool" if found[2] == "1" else names[found[1]] + found[2]


def _tensor(spec: Any) -> Any:
    """MLIR's type of a shape and type."""
    from jax.interpreters.mlir import dtype_to_ir_type
    from jaxlib.mlir import ir

    return ir.RankedTensorType.get(spec.shape, dtype_to_ir_type(np.dtype(spec.dtype)))


def _reorder(
    module: Any, inputs: list, operands: list[Any], results: list[int], *, platform_index: bool
) -> None:
    """Gives `main` other parameters and another order of results, those of flat structures.

    Args:
      module: with a `main` as XLA has it.
      inputs: types of the new parameters.
      operands: for each old parameter, the number of the new one, or a constant.
      results: the old numbers of the new results.
      platform_index: whether JAX says first which of several platforms it is.
    """
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import func, stablehlo

    inner = _main(module)
    inner.attributes["sym_name"] = ir.StringAttr.get(_INNER)
    inner.attributes["sym_visibility"] = ir.StringAttr.get("private")
    kind = inner.type
    first = [ir.RankedTensorType.get([], ir.IntegerType.get_signless(32))] * platform_index
    with ir.InsertionPoint(module.body):
        main = func.FuncOp("main", ([*first, *inputs], [kind.results[n] for n in results]))
        main.attributes["sym_visibility"] = ir.StringAttr.get("public")
        block = main.add_entry_block()  # type: ignore[attr-defined]
    with ir.InsertionPoint(block):
        own = list(block.arguments)[platform_index:]
        values = [
            own[operand]
            if isinstance(operand, int)
            else stablehlo.constant(ir.DenseElementsAttr.get(operand, type=expected))
            for operand, expected in zip(operands, kind.inputs, strict=True)
        ]
        called = func.CallOp(list(kind.results), ir.FlatSymbolRefAttr.get(_INNER), values)
        func.ReturnOp([called.results[number] for number in results])


def _portable(module: Any) -> bytes:
    """StableHLO that versions of JAX of other months read."""
    from jaxlib.mlir.dialects import stablehlo

    version = stablehlo.get_version_from_compatibility_requirement(
        stablehlo.StablehloCompatibilityRequirement.WEEK_12
    )
    return stablehlo.serialize_portable_artifact(module, version)
