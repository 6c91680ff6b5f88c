"""Makes transformers' auto classes load pruned checkpoints, without importing transformers.

``import slimgpt`` must be enough for ``AutoModelForCausalLM.from_pretrained``, and must import
neither transformers nor torch (`slimgpt --help` and `slimgpt plan` start without them). So the
import of one transformers module is watched, and what is registered then is a stand-in that
imports slimgpt.modeling at its first use. See docs/decisions/0002-lazy-registration.md.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODEL_TYPES = ("slimgpt_llama", "slimgpt_mistral", "slimgpt_qwen2", "slimgpt_qwen3")
"""``model_type`` of every pruned architecture; slimgpt.modeling has the classes."""

_WATCHED = "transformers.models.auto.configuration_auto"


def install() -> None:
    """Registers now if transformers' auto classes are imported already, else when they are."""
    if _WATCHED in sys.modules:
        _register_stand_ins(sys.modules[_WATCHED])
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _register_stand_ins(configuration_auto: ModuleType) -> None:
    for model_type in MODEL_TYPES:
        configuration_auto.CONFIG_MAPPING.register(model_type, _StandIn(model_type), exist_ok=True)


class _StandIn:
    """Behaves as a config class; the first use imports slimgpt.modeling, which registers it."""

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type
        # transformers looks classes up by name; no need to import ours for that.
        self.__name__ = f"{model_type}_stand_in"

    def _config_class(self) -> Any:
        return importlib.import_module("slimgpt.modeling").ARCHITECTURES[self.model_type].config

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._config_class()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config_class(), name)


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds the watched module as everyone else would, and wraps its loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(importlib.abc.Loader):
    """Runs the module's own loader, then registers the stand-ins."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register_stand_ins(module)
