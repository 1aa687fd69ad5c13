import io

import pytest

from mmrec.features.json_lines import check_depth, check_nesting


def test_lines_may_hold_many_brackets_but_not_within_each_other() -> None:
    flat = b'{"x": [' + b"[]," * 500 + b'[]], "y": "' + b"[" * 500 + b'"}\n'
    check_nesting(io.BytesIO(flat * 3))
    for deep in (b"[" * 65 + b"]" * 65, b'{"x":' * 65 + b"1" + b"}" * 65, b'["]",' * 65 + b"1" + b"]" * 65):
        with pytest.raises(ValueError, match="64 levels"):
            check_nesting(io.BytesIO(flat + deep))
    check_nesting(io.BytesIO(b"[" * 63 + b"]" * 63))


def test_depth_is_that_of_the_deepest_value() -> None:
    value: object = 1
    for _ in range(63):
        value = {"x": [], "y": value}
    check_depth(value)
    with pytest.raises(ValueError):
        check_depth([[value]])
