"""The one place where what went wrong becomes a gRPC status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from pylwaftr.api.backend import Busy, Ended, OtherSettings, RestartNeeded, SettingsFaulty
from pylwaftr.api.translate import Invalid, Violation, clipped, more
from pylwaftr.capture import CaptureFault
from pylwaftr.changes import Report
from pylwaftr.store import Compacted, StoreFault

DOMAIN = "lwaftr"
DETAILS = "grpc-status-details-bin"
# Octets of trailers: by default clients take 8 KiB of metadata. Base64 adds a third to the details, which hold the
# message once more; beside them it is percent-encoded. What a request says may be in a text, a path, and metadata.
MAX_DETAILS, MAX_MESSAGE, MAX_PATH, MAX_VALUE = 4096, 512, 256, 1024

Code = grpc.StatusCode

# Refusals of single bindings; what is not listed is a fault of the request.
CODES = {
    "already_exists": Code.ALREADY_EXISTS,
    "not_found": Code.NOT_FOUND,
    "etag_mismatch": Code.ABORTED,
    "table_full": Code.RESOURCE_EXHAUSTED,
    "too_many_br": Code.RESOURCE_EXHAUSTED,
    "overlap": Code.FAILED_PRECONDITION,
    "other_params_on_address": Code.FAILED_PRECONDITION,
    "outranked": Code.FAILED_PRECONDITION,
    "subscriber_limit": Code.FAILED_PRECONDITION,
}
REASONS = {"already_exists": "BINDING_EXISTS", "not_found": "BINDING_NOT_FOUND"}


class ApiError(Exception):
    """Ends a call. Nothing was done."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        self.code, self.reason, self.message = code, reason, clipped(message, MAX_MESSAGE, _encoded)
        self.metadata, self.violations = dict(metadata or {}), tuple(violations)
        super().__init__(message)


def _encoded(text: str) -> int:
    """Octets of a status message: gRPC encodes by % what is not plain ASCII."""
    return sum(1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode()) for character in text)


def refused(done: Report, path: str) -> ApiError:
    """`path` with a place for the index: "bindings[{}]"."""
    first, count = done.refused[0], done.refused_count
    etag = "etags[{}]" if "{}" in path else "etag"  # what is at fault if that does not match
    return ApiError(
        CODES.get(first.reason, Code.INVALID_ARGUMENT),
        named(first.reason),
        first.text + more(count),
        {"index": str(first.index), "violations": str(count)},
        [
            Violation(
                (etag if one.reason == "etag_mismatch" else path).format(one.index), f"{named(one.reason)}: {one.text}"
            )
            for one in done.refused[:64]
        ],
    )


def named(reason: str) -> str:
    """As it is in ErrorInfo."""
    return REASONS.get(reason, reason.upper())


def api_error(fault: BaseException) -> ApiError | None:
    """None: a fault of the program."""
    match fault:
        case ApiError():
            return fault
        case Invalid():
            count = {"violations": str(fault.total)}
            return ApiError(Code.INVALID_ARGUMENT, fault.reason, str(fault), count, fault.violations)
        case Compacted():
            message = "changes that old are not kept one by one any more: watch without after_revision"
            return ApiError(Code.OUT_OF_RANGE, "COMPACTED", message)
        case StoreFault():
            return ApiError(Code.UNAVAILABLE, "STORE_FAULT", str(fault) or "the store cannot be written")
        case Busy():  # its client may have left, and its batches are not over
            return ApiError(Code.ABORTED, "REPLACEMENT_RUNNING", str(fault))
        case Ended():
            return ApiError(Code.FAILED_PRECONDITION, "PART_ENDED", str(fault))
        case SettingsFaulty():
            errors = [one for one in fault.faults if not one.warning]
            listed = [Violation(one.path, f"{one.file}:{one.line}: {one.message}") for one in errors]
            message = str(errors[0]) + more(len(errors))
            return ApiError(Code.INVALID_ARGUMENT, "SETTINGS_FAULTY", message, {"violations": str(len(errors))}, listed)
        case RestartNeeded():
            message = f"only a restart can change {fault}; nothing was applied"
            return ApiError(Code.FAILED_PRECONDITION, "RESTART_NEEDED", message, {"paths": str(fault)})
        case OtherSettings():
            message = "the settings in force are not those of this etag: somebody else has applied others; read again"
            return ApiError(Code.ABORTED, "ETAG_MISMATCH", message, violations=[Violation("etag", message)])
        case CaptureFault():
            return ApiError(Code.FAILED_PRECONDITION, "CAPTURE_REFUSED", str(fault))
    return None


def trailer(fault: ApiError) -> tuple[tuple[str, bytes], ...]:
    return ((DETAILS, status(fault).SerializeToString()),)


def status(fault: ApiError) -> status_pb2.Status:
    """Exactly one ErrorInfo, and a BadRequest with as many violations as a trailer holds."""
    metadata = {name: clipped(value, MAX_VALUE) for name, value in fault.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=fault.reason, domain=DOMAIN, metadata=metadata)
    bad = error_details_pb2.BadRequest()
    left = MAX_DETAILS - info.ByteSize() - len(fault.message.encode())
    for violation in fault.violations:
        one = error_details_pb2.BadRequest.FieldViolation(
            field=clipped(violation.path, MAX_PATH), description=clipped(violation.text, MAX_MESSAGE)
        )
        left -= one.ByteSize() + 4
        if left < 0 and bad.field_violations:
            break
        bad.field_violations.append(one)
    made = status_pb2.Status(code=fault.code.value[0], message=fault.message)
    for detail in (info, bad) if bad.field_violations else (info,):
        packed = any_pb2.Any()
        packed.Pack(detail)
        made.details.append(packed)
    return made
