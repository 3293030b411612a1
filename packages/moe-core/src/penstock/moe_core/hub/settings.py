"""Settings of an architecture whose sizes may come from a checkpoint in the Hugging Face layout. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationInfo, field_validator, model_validator

from penstock.hooks.architecture import ArchitectureSettings
from penstock.hooks.inputs import InputPath, expanded
from penstock.hooks.problems import Problem, ProblemError


class PretrainedSettings(ArchitectureSettings):
    """Missing sizes come from `preset` or `pretrained`, if given."""

    preset: str | None = None
    pretrained: InputPath | None = None

    changeable: ClassVar[frozenset[str]] = frozenset()
    """Fields that may differ from the checkpoint: they do not change the shapes of weights."""

    @classmethod
    @abstractmethod
    def of_checkpoint(cls, path: Path) -> dict[str, Any]:
        """The fields that a checkpoint fixes; raises `ProblemError` if it cannot be read or is not supported."""

    @classmethod
    @abstractmethod
    def placeholder(cls) -> Mapping[str, Any]:
        """Fields in place of those of a checkpoint that cannot be read: they are not to be reported as missing too."""

    @classmethod
    def giver(cls, fields: Mapping[str, Any], name: str) -> str | None:
        path = fields.get("pretrained")
        if isinstance(path, str) and name in cls.of_checkpoint(expanded(path)):
            return f"pretrained '{path}'"
        return super().giver(fields, name)

    def of_given_weights(self) -> Mapping[str, Any]:
        return {"pretrained": None}

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str | Problem]]:
        if self.pretrained is not None:
            for name, given in self.of_checkpoint(self.pretrained).items():
                if name not in self.changeable and (value := getattr(self, name)) != given:
                    what = f"is {value}, but {given} in the pretrained model"
                    yield (name,), Problem("bad-value", what, fix="remove it")

    @model_validator(mode="before")
    @classmethod
    def _start_from_pretrained(cls, data: Any) -> Any:
        """Fields that are missing or null come from the checkpoint; a router may be null without a registry."""
        if not isinstance(data, dict) or not isinstance(data.get("pretrained"), (str, Path)):
            return data
        try:
            given = cls.of_checkpoint(expanded(data["pretrained"]))
        except ProblemError:  # reported for the field itself
            given = {**cls.placeholder()}
        return {**given, **{name: value for name, value in data.items() if value is not None or name == "router"}}

    @field_validator("pretrained")
    @classmethod
    def _pretrained_can_be_read(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and info.data.get("preset") is not None:
            raise ValueError("preset and pretrained both set the sizes: remove one of them")
        if path is None:
            return None
        try:
            cls.of_checkpoint(expanded(path))
        except ProblemError as error:
            raise ValueError(str(error)) from error
        return expanded(path)
