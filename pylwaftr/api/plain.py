"""Messages as plain values, for people and JSON: numbers stay numbers, times are ISO 8601 in UTC, names short."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct


def plain(message: Message) -> dict[str, Any]:
    """Every field that is set or has no presence, by its name in the .proto file."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = {
                str(key): _value(field.message_type.fields_by_name["value"], value[key]) for key in value
            }
        elif field.is_repeated:
            found[field.name] = [_value(field, element) for element in value]
        else:
            found[field.name] = _value(field, value)
    return found


def _value(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        name = field.enum_type.values_by_number[value].name
        return name.rpartition("_")[2].lower() if "_" in name else name.lower()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value.hex()
    if field.message_type is None:
        return value
    match field.message_type.full_name:
        case "google.protobuf.Timestamp":
            return time_text(value.ToNanoseconds())
        case "google.protobuf.Duration":
            return value.ToNanoseconds() / 1e9
        case "google.protobuf.Struct":
            return {key: _json(inner) for key, inner in value.items()}
    return plain(value)


def _json(value: Any) -> Any:
    """What a Struct holds; it knows only floating point numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, ListValue):
        return [_json(inner) for inner in value]
    if isinstance(value, Struct):
        return {key: _json(inner) for key, inner in value.items()}
    return value


def time_text(nanoseconds: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
