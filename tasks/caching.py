"""The one cache policy of all steps.

A step's cache key is the address of the artifact it makes (:class:`vaesc.store.Spec`): step name,
canonical config, contents of its inputs, source of the library modules it uses. Prefect's own
policies are not enough: ``INPUTS`` mixes up two tasks with equal arguments, and ``TASK_SOURCE``
does not see the library.

What Prefect keeps per step is a *record*, as JSON: a few strings and numbers. Reading it back
verifies the artifact it stands for; a record whose artifact is missing or damaged is no hit, so
that the step runs again. Pickle is refused wherever a result file asks for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.serializers import PickleSerializer, Serializer
from pydantic import Field

from vaesc.config import PipelineConfig, home
from vaesc.errors import StoreError
from vaesc.records import ModelVersion, Record, record_from_json
from vaesc.shared import this_store
from vaesc.steps import Step
from vaesc.store import Store


@dataclass
class StepPolicy(CachePolicy):
    """Key a task run on the address of the artifact that its step makes."""

    step: Step | None = None

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,  # noqa: ANN401
    ) -> str | None:
        """Return ``<step>-<address>``; the step's inputs are its arguments that are records.

        Raises:
            TypeError: An argument is neither the config, nor a record, a string, or a tuple.
        """
        assert self.step is not None
        config = inputs["config"]
        if not isinstance(config, PipelineConfig):
            raise TypeError(f"config must be a PipelineConfig, got {type(config).__name__}")
        given = {k: v for k, v in inputs.items() if k != "config" and v not in (None, (), "")}
        contents = {name: _content(v) for name, v in given.items()}
        return f"{self.step.name}-{self.step.spec(config, contents).digest}"


class RecordSerializer(Serializer):
    """Write a record as JSON; reading it verifies the artifact it stands for."""

    type: str = Field(default="vaesc-record", frozen=True)

    def dumps(self, obj: Any) -> bytes:  # noqa: ANN401
        """Serialise a record.

        Raises:
            TypeError: `obj` is not a record: steps hand over nothing else.
        """
        if not isinstance(obj, Record):
            raise TypeError(f"a step returns a record, got {type(obj).__name__}")
        return json.dumps(obj.to_json(), sort_keys=True).encode()

    def loads(self, blob: bytes) -> Record:
        """Deserialise and verify; any exception here makes Prefect run the step again."""
        record = record_from_json(json.loads(blob))
        verify(record)
        return record


def verify(record: Record) -> None:
    """Check that what `record` stands for is there and whole.

    Raises:
        StoreError: It is not.
    """
    if isinstance(record, ModelVersion):
        from vaesc.registry import exists

        if not exists(record):
            raise StoreError(f"model {record.name} version {record.version} is not registered")
        return
    folder = Path(record.uri)
    store, root = this_store(), folder.parents[2]
    store = store if store.root == root else Store(root)
    artifact = store.use(folder.parents[1].name, record.digest)
    if artifact.content != record.content:
        raise StoreError(f"{artifact.kind} {record.digest[:12]} was made anew and differs")


def results_folder() -> Path:
    """Return the folder of Prefect's result records."""
    return home() / "results"


def _content(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, Record):
        return value.content
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return " ".join(map(_content, value))
    raise TypeError(
        f"a step's inputs are records, strings or tuples of them, got {type(value).__name__}"
    )


def _refuse_pickle(self: PickleSerializer, blob: bytes) -> NoReturn:
    """Stand in for unpickling: a result *file* names its serializer, so it could ask for this."""
    raise ValueError("vaesc never unpickles a result")


PickleSerializer.loads = _refuse_pickle  # type: ignore[method-assign]
