"""Import of torchvision without PyTorch's compiler."""

from __future__ import annotations

import sys

import pytest

from whale_ray.learning.encoders.backbones import _torchvision_compat as compat


def test_torchvision_gets_a_stand_in_of_the_compiler_which_calls_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo.utils as real

    with monkeypatch.context() as hidden:
        for name in ("torch._dynamo", "torch._dynamo.utils"):
            hidden.delitem(sys.modules, name)
        with compat._deferred_compiler():
            from torch._dynamo.utils import is_compile_supported
        assert "torch._dynamo" not in sys.modules
        assert "torch._dynamo.utils" not in sys.modules
    assert is_compile_supported is not real.is_compile_supported
    assert is_compile_supported("cpu") == real.is_compile_supported("cpu")
    with compat._deferred_compiler():
        assert sys.modules["torch._dynamo.utils"] is real
