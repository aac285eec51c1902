"""A look at a pickle before it is read: is it a table of tensors, or built to exhaust the reader?"""

from __future__ import annotations

import pickletools
from typing import Any, BinaryIO

MAX_PICKLE_BYTES = 256 << 20  # bytes of pickle: names and shapes only, so a longer one is no checkpoint
MAX_TUPLE_LEAVES = 1 << 20  # leaves of one tuple, shared parts counted each time: hashing it takes as long
MEMO_PUT_OPCODES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
MEMO_GET_OPCODES = ("GET", "BINGET", "LONG_BINGET")


def check_pickle(raw: bytes | BinaryIO) -> None:
    """Walk the opcodes of one pickle without executing them, keeping the size of what each would leave on the stack.

    :raises ValueError: a memo index beyond the number of opcodes (it would allocate up to it), a tuple that unfolds
        to more than ``MAX_TUPLE_LEAVES`` leaves, or an opcode that no pickler of state dicts writes.
    """
    stack: list[int | None] = []  # sizes; None is a mark
    memo: dict[int, int] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(raw), start=1):
        name = opcode.name
        if name in MEMO_PUT_OPCODES:
            index = len(memo) if name == "MEMOIZE" else int(argument)
            if index > count:
                raise ValueError(f"memo index {index} after {count} opcodes")
            memo[index] = stack[-1] or 1 if stack else 1
        elif name in MEMO_GET_OPCODES:
            stack.append(memo.get(int(argument), 1))
        elif name == "MARK":
            stack.append(None)
        elif name == "DUP":
            raise ValueError("the opcode DUP")
        else:
            operands = _pop_operands(stack, opcode)
            size = sum(operands) + 1 if name.startswith("TUPLE") else 1
            if size > MAX_TUPLE_LEAVES:
                raise ValueError("tuples nested beyond any use")
            stack.extend(size for _ in opcode.stack_after)


def _pop_operands(stack: list[int | None], opcode: Any) -> list[int]:
    """Sizes of what an opcode takes from the stack."""
    sizes: list[int] = []
    fixed_operands = [
        item for item in opcode.stack_before if item not in (pickletools.markobject, pickletools.stackslice)
    ]
    if pickletools.markobject in opcode.stack_before:
        while stack and (size := stack.pop()) is not None:
            sizes.append(size)
    sizes += [stack.pop() or 1 for _ in fixed_operands if stack]
    return sizes
