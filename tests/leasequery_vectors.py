"""The leasequery vectors, and our decoded messages in the words of the vectors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from pylwaftr.dhcp import codec4, codec6, codec_lease, s46
from pylwaftr.rows import ports

DATA = json.loads((Path(__file__).parent / "data/leasequery.json").read_text())
MESSAGES: dict[str, dict[str, Any]] = {message["id"]: message for message in DATA["messages"]}
EXCHANGES: dict[str, dict[str, Any]] = {exchange["id"]: exchange for exchange in DATA["exchanges"]}
RECORDINGS: dict[str, dict[str, Any]] = DATA["recordings"]
DUID = bytes.fromhex(DATA["meta"]["requestor_duid"])
T0 = DATA["meta"]["T0_unix"]
assert datetime.fromtimestamp(codec6.EPOCH, UTC).isoformat() == "2000-01-01T00:00:00+00:00"


def octets(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["hex"])


def body(vector: dict[str, Any]) -> bytes:
    """Without the frame's length."""
    return octets(vector)[2:] if vector["transport"].startswith("tcp") else octets(vector)


def record_of(lease: codec_lease.Lease) -> dict[str, Any]:
    params = lease.ports or s46.PortParams(0, 0, 0)
    return {
        "ipv4": str(lease.ipv4),
        "psid_offset": params.offset,
        "psid_len": params.psid_len,
        "psid": params.psid,
        "ports": [list(pair) for pair in ports(params.offset, params.psid_len, params.psid)],
        "b4": None if lease.b4 is None else str(lease.b4),
        "client_id": lease.client.hex(),
        "state": lease.state.name,
        "base_unix": lease.base,
        "cltt_unix": lease.cltt,
        "state_since_unix": lease.since,
        "expires_unix": lease.expires if lease.lifetime != codec4.INFINITE else "infinite",
        "remote": lease.remote,
    }


def words4(message: codec4.Message4) -> dict[str, Any]:
    base = message.number(codec4.Code.BASE_TIME)
    return {
        "op": message.op,
        "xid": f"{message.xid:08x}",
        "ciaddr": str(message.ciaddr),
        "yiaddr": str(message.yiaddr),
        "msg_type": message.type,
        "options": [_option4(code, data, base) for code, data in message.options],
    }


def _option4(code: int, data: bytes, base: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {"code": code, "len": len(data)}
    number = int.from_bytes(data)
    match code:
        case codec4.Code.MESSAGE_TYPE:
            found["value"] = number
        case codec4.Code.PARAMETER_REQUEST_LIST:
            found["requested"] = list(data)
        case codec4.Code.BASE_TIME | codec4.Code.QUERY_START | codec4.Code.QUERY_END:
            found["unix"] = number
        case codec4.Code.LEASE_TIME:
            found["seconds"] = number
        case codec4.Code.CLIENT_ID:
            found["client_id"] = data.hex()
        case codec4.Code.LAST_TRANSACTION | codec4.Code.START_OF_STATE:
            found |= {"seconds_ago": number} | ({} if base is None else {"unix": base - number})
        case codec4.Code.DHCP_STATE:
            found["state"] = number
        case codec4.Code.STATUS_CODE:
            found |= {"status": data[0], "text": data[1:].decode()}
        case codec4.Code.S46_SADDR:
            found["address"] = str(IPv6Address(data))
        case codec4.Code.PORTPARAMS:
            params = codec4.port_params(data)
            found |= {
                "offset": params.offset,
                "psid_len": params.psid_len,
                "psid": params.psid,
                "field": data[2:].hex(),
            }
    return found


def words6(message: codec6.Message6) -> dict[str, Any]:
    return {
        "msg_type": message.type,
        "options": [_option6(code, data) for code, data in message.options],
    } | (
        {"flags": f"{message.xid:06x}", "unicast_flag": bool(message.xid & codec6.UNICAST)}
        if message.type in (codec6.Type.DHCPV4_QUERY, codec6.Type.DHCPV4_RESPONSE)
        else {"xid": f"{message.xid:06x}"}
    )


def _option6(code: int, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"code": code, "len": len(data)}
    number = int.from_bytes(data)
    match code:
        case codec6.Code.CLIENTID | codec6.Code.SERVERID | codec6.Code.RELAY_ID:
            found["duid"] = data.hex()
        case codec6.Code.ORO:
            found["requested"] = [int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2)]
        case codec6.Code.STATUS_CODE:
            found |= {"status": int.from_bytes(data[:2]), "text": data[2:].decode()}
        case codec6.Code.LQ_BASE_TIME | codec6.Code.LQ_START_TIME | codec6.Code.LQ_END_TIME:
            found |= {"value": number, "unix": number + codec6.EPOCH}
        case codec6.Code.CLT_TIME:
            found["seconds"] = number
        case codec6.Code.CLIENT_DATA:
            found["options"] = [_option6(*option) for option in codec6.split(data)]
        case codec6.Code.DHCPV4_MSG:
            found["dhcpv4"] = words4(codec4.decode(data))
        case codec6.Code.S46_BR:
            found["address"] = str(IPv6Address(data))
        case codec6.Code.LQ_QUERY:
            inside = [_option6(*option) for option in codec6.split(data[17:])]
            found |= {"query_type": data[0], "link_address": str(IPv6Address(data[1:17])), "options": inside}
        case codec6.Code.IAADDR:
            times = {"preferred": int.from_bytes(data[16:20]), "valid": int.from_bytes(data[20:24])}
            found |= {"address": str(IPv6Address(data[:16]))} | times
        case codec6.Code.REMOTE_ID:
            found["enterprise"] = int.from_bytes(data[:4])
    return found


def same(ours: Any, theirs: Any) -> bool:
    """All that both have is equal; the vectors' names of numbers are not ours to know."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(same(value, theirs[key]) for key, value in ours.items() if key in theirs)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)
