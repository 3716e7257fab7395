"""Vectors of lanes for Numba: what the inner loops of the kernels are made of.

``Lanes(dtype, parts)`` is a value of ``parts`` machine vectors of 32 bytes, which
stays in registers: 8 float32 or 4 float64 each. A loop over arrays of lanes is
left to chance otherwise, since Numba's vectoriser keeps no running sums of an
outer loop in registers.

Every operation acts on each lane alone and rounds once, as its name says, so that
a lane's result does not depend on where it stands or what stands beside it.
Reads and writes are not checked against the bounds of the array.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import RequireLiteralValue, TypingError
from numba.extending import intrinsic, models, register_model

PART_BYTES = 32
"""Bytes of one machine vector; fixed, so that results never depend on the machine."""


class LanesType(types.Type):  # type: ignore[misc]
    """Numba's type of lanes: ``parts`` vectors of ``dtype``."""

    def __init__(self, dtype: Any, parts: int) -> None:
        self.dtype, self.parts = dtype, parts
        super().__init__(name=f"Lanes({dtype}, {parts})")


def _vector(dtype: Any) -> ir.VectorType:
    element = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(element, PART_BYTES * 8 // dtype.bitwidth)


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes: LanesType) -> None:
        stored = ir.LiteralStructType([_vector(lanes.dtype)] * lanes.parts)
        super().__init__(manager, lanes, stored)


def _parts(builder: Any, value: Any, lanes: LanesType) -> list[Any]:
    return [builder.extract_value(value, i) for i in range(lanes.parts)]


def _joined(context: Any, builder: Any, lanes: LanesType, parts: list[Any]) -> Any:
    value = ir.Constant(context.get_value_type(lanes), ir.Undefined)
    for i, part in enumerate(parts):
        value = builder.insert_value(value, part, i)
    return value


def _splat(builder: Any, scalar: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _broadcast(builder: Any, scalar: Any, lanes: LanesType) -> list[Any]:
    return [_splat(builder, scalar, _vector(lanes.dtype))] * lanes.parts


def _converted(builder: Any, vector: Any, dtype: Any) -> Any:
    """As many float32 or float64 of a vector of the other."""
    wanted = ir.VectorType(_vector(dtype).element, vector.type.count)
    if wanted == vector.type:
        return vector
    is_wider = dtype == types.float64
    return builder.fpext(vector, wanted) if is_wider else builder.fptrunc(vector, wanted)


def _operand(builder: Any, value: Any, of: Any, lanes: LanesType) -> list[Any]:
    """The parts of an operand; a scalar stands for lanes that all hold it."""
    if isinstance(of, LanesType):
        return _parts(builder, value, of)
    return _broadcast(builder, value, lanes)


def _check_flat(array: Any) -> None:
    if not isinstance(array, types.Array) or array.ndim != 1 or array.layout != "C":
        raise TypingError(f"{array} is not a flat, contiguous array")


def _address(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Pointer to element ``args[1]`` of the array ``args[0]``."""
    data = context.make_array(sig.args[0])(context, builder, args[0]).data
    at = context.cast(builder, args[1], sig.args[1], types.intp)
    return builder.gep(data, [at])


def _part_addresses(context: Any, builder: Any, sig: Any, args: Any, lanes: LanesType) -> list[Any]:
    first = builder.bitcast(
        _address(context, builder, sig, args), _vector(lanes.dtype).as_pointer()
    )
    return [builder.gep(first, [ir.Constant(ir.IntType(64), i)]) for i in range(lanes.parts)]


def _call(builder: Any, name: str, operands: list[Any]) -> Any:
    vector = operands[0].type
    suffix = "f32" if isinstance(vector.element, ir.FloatType) else "f64"
    signature = ir.FunctionType(vector, [vector] * len(operands))
    function = cgutils.get_or_insert_function(
        builder.module, signature, f"llvm.{name}.v{vector.count}{suffix}"
    )
    return builder.call(function, operands)


@intrinsic
def at(_typing: Any, array: Any, i: Any) -> Any:
    """``array[i]`` of a flat array."""
    _check_flat(array)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, sig, args))

    return array.dtype(array, i), generate


@intrinsic
def put(_typing: Any, array: Any, i: Any, value: Any) -> Any:
    """``array[i] = value`` of a flat array."""
    _check_flat(array)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, sig, args))
        return context.get_dummy_value()

    return types.void(array, i, array.dtype), generate


@intrinsic(prefer_literal=True)
def load(_typing: Any, array: Any, i: Any, parts: Any) -> Any:
    """``parts`` vectors, or as many as a tuple is long, from element ``i`` of a flat array."""
    _check_flat(array)
    if isinstance(parts, types.BaseTuple):
        lanes = LanesType(array.dtype, len(parts))
    elif isinstance(parts, types.IntegerLiteral):
        lanes = LanesType(array.dtype, parts.literal_value)
    else:
        raise RequireLiteralValue("parts must be known when the kernel is compiled")

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        loaded = []
        for address in _part_addresses(context, builder, sig, args, lanes):
            loaded.append(builder.load(address))
            loaded[-1].align = lanes.dtype.bitwidth // 8
        return _joined(context, builder, lanes, loaded)

    return lanes(array, i, parts), generate


@intrinsic
def store(_typing: Any, array: Any, i: Any, value: Any) -> Any:
    """Write lanes from element ``i`` of a flat array on."""
    _check_flat(array)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        addresses = _part_addresses(context, builder, sig, args, value)
        for part, address in zip(_parts(builder, args[2], value), addresses, strict=True):
            builder.store(part, address).align = value.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, i, value), generate


@intrinsic
def load_as(_typing: Any, array: Any, i: Any, scale: Any, like: Any) -> Any:
    """One vector of the type of the array ``like``: elements from i on, times ``scale``.

    They are multiplied in their own type, and rounded to the other then.
    """
    _check_flat(array)
    lanes = LanesType(like.dtype, 1)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        count = _vector(lanes.dtype).count
        own = ir.VectorType(_vector(array.dtype).element, count)
        address = builder.bitcast(_address(context, builder, sig, args), own.as_pointer())
        found = builder.load(address)
        found.align = array.dtype.bitwidth // 8
        scaled = builder.fmul(found, _splat(builder, args[2], own))
        return _joined(context, builder, lanes, [_converted(builder, scaled, lanes.dtype)])

    return lanes(array, i, array.dtype, like), generate


@intrinsic
def store_as(_typing: Any, array: Any, i: Any, value: Any) -> Any:
    """Write one vector, in the type of the array, from element i on."""
    _check_flat(array)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (part,) = _parts(builder, args[2], value)
        found = _converted(builder, part, array.dtype)
        address = _address(context, builder, sig, args)
        builder.store(found, builder.bitcast(address, found.type.as_pointer())).align = (
            array.dtype.bitwidth // 8
        )
        return context.get_dummy_value()

    return types.void(array, i, value), generate


@intrinsic
def store_apart(_typing: Any, array: Any, i: Any, apart: Any, value: Any) -> Any:
    """Write the lanes of one vector to the elements i, i + apart, i + 2 apart and so on."""
    _check_flat(array)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (part,) = _parts(builder, args[3], value)
        places = _addresses_apart(context, builder, sig, args, part.type.count)
        for lane, address in enumerate(places):
            element = builder.extract_element(part, ir.Constant(ir.IntType(32), lane))
            builder.store(element, address)
        return context.get_dummy_value()

    return types.void(array, i, types.intp, value), generate


@intrinsic
def load_apart(_typing: Any, array: Any, i: Any, apart: Any) -> Any:
    """One vector of the elements i, i + apart, i + 2 apart and so on of a flat array."""
    _check_flat(array)
    lanes = LanesType(array.dtype, 1)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        part: Any = ir.Constant(_vector(lanes.dtype), ir.Undefined)
        places = _addresses_apart(context, builder, sig, args, part.type.count)
        for lane, address in enumerate(places):
            element = builder.load(address)
            part = builder.insert_element(part, element, ir.Constant(ir.IntType(32), lane))
        return _joined(context, builder, lanes, [part])

    return lanes(array, i, types.intp), generate


def _addresses_apart(context: Any, builder: Any, sig: Any, args: Any, count: int) -> list[Any]:
    """Pointers to ``count`` elements of the array ``args[0]``, ``args[2]`` from each other."""
    found = [_address(context, builder, sig, args)]
    for _ in range(count - 1):
        found.append(builder.gep(found[-1], [args[2]]))
    return found


def _elementwise(operation: Any, lanes: LanesType, operands: tuple[Any, ...]) -> Any:
    """Signature and code of an operation; operands that are scalars are broadcast."""
    taken = [v if isinstance(v, LanesType) else lanes.dtype for v in operands]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        columns = zip(
            *(_operand(builder, v, of, lanes) for v, of in zip(args, sig.args, strict=True)),
            strict=True,
        )
        return _joined(context, builder, lanes, [operation(builder, *parts) for parts in columns])

    return lanes(*taken), generate


@intrinsic
def broadcast(_typing: Any, scalar: Any, like: Any) -> Any:
    """Lanes of the shape of ``like`` that all hold ``scalar``."""
    return _elementwise(lambda _, x, __: x, like, (scalar, like))


@intrinsic
def fma(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once; ``a`` may be a scalar."""
    return _elementwise(lambda builder, *abc: _call(builder, "fma", list(abc)), c, (a, b, c))


@intrinsic
def fnma(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``c - a * b``, rounded once; ``a`` may be a scalar."""

    def operation(builder: Any, x: Any, y: Any, z: Any) -> Any:
        return _call(builder, "fma", [builder.fneg(x), y, z])

    return _elementwise(operation, c, (a, b, c))


@intrinsic
def subtract(_typing: Any, a: Any, b: Any) -> Any:
    """``a - b``."""
    return _elementwise(lambda builder, x, y: builder.fsub(x, y), a, (a, b))


@intrinsic
def add(_typing: Any, a: Any, b: Any) -> Any:
    """``a + b``."""
    return _elementwise(lambda builder, x, y: builder.fadd(x, y), a, (a, b))


@intrinsic
def multiply(_typing: Any, a: Any, b: Any) -> Any:
    """``a * b``; ``b`` may be a scalar."""
    return _elementwise(lambda builder, x, y: builder.fmul(x, y), a, (a, b))


@intrinsic
def maximum(_typing: Any, a: Any, b: Any) -> Any:
    """The larger of both, and ``b`` where ``a`` is not a number; ``b`` may be a scalar."""

    def operation(builder: Any, x: Any, y: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", x, y), x, y)

    return _elementwise(operation, a, (a, b))


@intrinsic
def minimum(_typing: Any, a: Any, b: Any) -> Any:
    """The smaller of both, and ``b`` where ``a`` is not a number."""

    def operation(builder: Any, x: Any, y: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", x, y), x, y)

    return _elementwise(operation, a, (a, b))


@intrinsic
def absolute(_typing: Any, a: Any) -> Any:
    """``|a|``."""
    return _elementwise(lambda builder, x: _call(builder, "fabs", [x]), a, (a,))


@intrinsic
def widen(_typing: Any, a: Any) -> Any:
    """float32 lanes as float64: twice the parts, the same order."""
    lanes = LanesType(types.float64, 2 * a.parts)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = []
        for part in _parts(builder, args[0], a):
            for half in (range(4), range(4, 8)):
                taken = ir.Constant(ir.VectorType(ir.IntType(32), 4), list(half))
                narrow = builder.shuffle_vector(part, ir.Constant(part.type, ir.Undefined), taken)
                wide.append(builder.fpext(narrow, _vector(types.float64)))
        return _joined(context, builder, lanes, wide)

    return lanes(a), generate


@intrinsic
def narrow(_typing: Any, a: Any) -> Any:
    """float64 lanes as float32: half the parts, the same order."""
    lanes = LanesType(types.float32, a.parts // 2)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        half = ir.VectorType(ir.FloatType(), 4)
        halves = [builder.fptrunc(part, half) for part in _parts(builder, args[0], a)]
        both = ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(8)))
        pairs = zip(halves[::2], halves[1::2], strict=True)
        whole = [builder.shuffle_vector(low, high, both) for low, high in pairs]
        return _joined(context, builder, lanes, whole)

    return lanes(a), generate


@intrinsic
def which_at_most(_typing: Any, a: Any, b: Any) -> Any:
    """Bits of the lanes where ``a <= b``, lane 0 the lowest; never where one is not a number."""
    count = _vector(a.dtype).count

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found = ir.Constant(ir.IntType(64), 0)
        pairs = zip(_parts(builder, args[0], a), _parts(builder, args[1], b), strict=True)
        for i, (x, y) in enumerate(pairs):
            bits = builder.bitcast(builder.fcmp_ordered("<=", x, y), ir.IntType(count))
            wide = builder.zext(bits, ir.IntType(64))
            shifted = builder.shl(wide, ir.Constant(ir.IntType(64), i * count))
            found = builder.or_(found, shifted)
        return found

    return types.int64(a, b), generate


@intrinsic
def lowest_bit(_typing: Any, bits: Any) -> Any:
    """Position of the lowest bit that is set in an int64, of which there must be one."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate
