"""Records survive JSON and refuse what is not theirs."""

import json

import pytest

from vaesc.records import RECORDS, Dataset, ModelVersion, Record, record_from_json

DATASET = Dataset(
    uri="/somewhere", digest="d", content="c", run_id="r", source="digits",
    n_train=10, n_validation=2, n_test=3, shape=(8, 8),
)  # fmt: skip
MODEL = ModelVersion(
    uri="models:/vaesc/1", digest="d", content="c", run_id="r", name="vaesc", version=1
)


@pytest.mark.parametrize("record", [DATASET, MODEL], ids=lambda r: type(r).__name__)
def test_round_trip_through_json(record):
    assert record_from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"record": "Stranger"},
        {"record": "Dataset"},
        {**DATASET.to_json(), "extra": 1},
        {k: v for k, v in DATASET.to_json().items() if k != "digest"},
    ],
)
def test_what_is_not_a_record_is_refused(value):
    with pytest.raises(ValueError, match=r"record|fields"):
        record_from_json(value)


def test_records_are_frozen_and_hashable():
    assert hash(DATASET) == hash(record_from_json(DATASET.to_json()))
    assert set(RECORDS) == {cls.__name__ for cls in Record.__subclasses__()}
