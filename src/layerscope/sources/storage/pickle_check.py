"""Check a pickle before it is read, and reject one that is built to exhaust the reader."""

from __future__ import annotations

import pickletools
from typing import Any, BinaryIO

MAX_PICKLE_BYTES = 256 << 20  # a checkpoint's pickle holds only names and shapes
MAX_TUPLE_LEAVES = 1 << 20  # leaves of one tuple; shared parts count each time, as in hashing
MEMO_PUT_OPCODES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
MEMO_GET_OPCODES = ("GET", "BINGET", "LONG_BINGET")


def check_pickle(raw: bytes | BinaryIO) -> None:
    """Walk the opcodes of one pickle without executing them, and track the size of each entry on the stack.

    :raises ValueError: a memo index exceeds the number of opcodes (memory up to the index would be allocated), a tuple
        expands to more than ``MAX_TUPLE_LEAVES`` leaves, or an opcode never occurs in state dicts.
    """
    stack: list[int | None] = []  # sizes; None is a mark
    memo: dict[int, int] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(raw), start=1):
        name = opcode.name
        if name in MEMO_PUT_OPCODES:
            index = len(memo) if name == "MEMOIZE" else int(argument)
            if index > count:
                raise ValueError(f"memo index {index} exceeds the number of opcodes, {count}")
            memo[index] = stack[-1] or 1 if stack else 1
        elif name in MEMO_GET_OPCODES:
            stack.append(memo.get(int(argument), 1))
        elif name == "MARK":
            stack.append(None)
        elif name == "DUP":
            raise ValueError("the opcode DUP never occurs in state dicts")
        else:
            operands = _pop_operands(stack, opcode)
            size = sum(operands) + 1 if name.startswith("TUPLE") else 1
            if size > MAX_TUPLE_LEAVES:
                raise ValueError(f"nested tuples expand to more than {MAX_TUPLE_LEAVES:,} entries")
            stack.extend(size for _ in opcode.stack_after)


def _pop_operands(stack: list[int | None], opcode: Any) -> list[int]:
    """Pop the operands of an opcode from the stack, and return their sizes."""
    sizes: list[int] = []
    fixed_operands = [
        item for item in opcode.stack_before if item not in (pickletools.markobject, pickletools.stackslice)
    ]
    if pickletools.markobject in opcode.stack_before:
        while stack and (size := stack.pop()) is not None:
            sizes.append(size)
    sizes += [stack.pop() or 1 for _ in fixed_operands if stack]
    return sizes
