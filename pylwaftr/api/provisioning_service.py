"""PcpService and LeasequeryService: what the engines hold, and the levers on them."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from pylwaftr.api import gate, translate
from pylwaftr.api.backend import KnownLease, LeaseFilter, LeasequeryView, Parts, PcpMapping, PcpView, SourceStatus
from pylwaftr.api.errors import ApiError
from pylwaftr.api.generated.lwaftr.v1 import leasequery_pb2, leasequery_pb2_grpc, pcp_pb2, pcp_pb2_grpc
from pylwaftr.api.once import Once
from pylwaftr.api.translate import invalid
from pylwaftr.changes import Source

Context = aio.ServicerContext[Any, Any]


class PcpService(pcp_pb2_grpc.PcpServiceServicer):
    def __init__(self, parts: Parts, once: Once) -> None:
        self._parts, self._once = parts, once

    @property
    def _pcp(self) -> PcpView:
        if self._parts.pcp is None or not self._parts.pcp.enabled:
            text = "PCP is switched off; set pcp.enabled: true in the router's configuration"
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "PCP_DISABLED", text)
        return self._parts.pcp

    async def ListMappings(
        self, request: pcp_pb2.ListMappingsRequest, context: Context
    ) -> pcp_pb2.ListMappingsResponse:
        b4, ipv4, size = _filter(request)
        try:
            found, following = self._pcp.mappings(b4, ipv4, size, request.page_token)
        except ValueError:
            raise invalid("page_token", "is none that this filter gave; begin with the first page") from None
        return pcp_pb2.ListMappingsResponse(mappings=[_mapping(one) for one in found], next_page_token=following)

    async def ListPools(self, _: object, context: Context) -> pcp_pb2.ListPoolsResponse:
        return pcp_pb2.ListPoolsResponse(
            pools=[
                pcp_pb2.Pool(
                    ipv4=str(pool.ipv4),
                    psid_len=pool.psid_len,
                    total=pool.total,
                    used=pool.used,
                    quarantined=pool.quarantined,
                )
                for pool in self._pcp.pools()
            ]
        )

    async def ReleaseMappings(
        self, request: pcp_pb2.ReleaseMappingsRequest, context: Context
    ) -> pcp_pb2.ReleaseMappingsResponse:
        which, pcp = request.WhichOneof("what"), self._pcp
        if which is None:
            raise invalid("key", "is missing, and so is b4_ipv6; give one of them")
        key = translate.from_key(request.key.ipv4, request.key.psid, "key.") if which == "key" else None
        b4 = translate.prefix6(request.b4_ipv6, "b4_ipv6") if which == "b4_ipv6" else None

        async def work() -> pcp_pb2.ReleaseMappingsResponse:
            count = await pcp.release(key, b4, validate_only=request.validate_only)
            if not count:
                text = f"no mapping of {request.b4_ipv6 or f'{request.key.ipv4} PSID {request.key.psid}'} is in force"
                raise ApiError(grpc.StatusCode.NOT_FOUND, "MAPPING_NOT_FOUND", text)
            return pcp_pb2.ReleaseMappingsResponse(released=count)

        return await self._once.do(gate.caller.get().name, "ReleaseMappings", request, work)

    async def Announce(self, request: pcp_pb2.AnnounceRequest, context: Context) -> pcp_pb2.AnnounceResponse:
        pcp = self._pcp

        async def work() -> pcp_pb2.AnnounceResponse:
            return pcp_pb2.AnnounceResponse(softwires=await pcp.announce())

        return await self._once.do(gate.caller.get().name, "Announce", request, work)


class LeasequeryService(leasequery_pb2_grpc.LeasequeryServiceServicer):
    def __init__(self, parts: Parts, once: Once) -> None:
        self._parts, self._once = parts, once

    @property
    def _leasequery(self) -> LeasequeryView:
        if self._parts.leasequery is None:
            text = "no DHCP server is asked for leases; name them in leasequery.servers of the router's configuration"
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "LEASEQUERY_DISABLED", text)
        return self._parts.leasequery

    async def ListSources(self, _: object, context: Context) -> leasequery_pb2.ListSourcesResponse:
        return leasequery_pb2.ListSourcesResponse(sources=[_source(one) for one in self._leasequery.sources()])

    async def ListLeases(
        self, request: leasequery_pb2.ListLeasesRequest, context: Context
    ) -> leasequery_pb2.ListLeasesResponse:
        leasequery = self._leasequery
        b4, ipv4, size = _filter(request)
        wanted = LeaseFilter(request.name or None, ipv4, b4, request.kept_out)
        try:
            found, following = await leasequery.leases(wanted, size, request.page_token)
        except KeyError:
            raise self._unknown(request.name) from None
        except ValueError:
            raise invalid("page_token", "is none that this filter gave; begin with the first page") from None
        leases = [_lease(one) for one in found]
        return leasequery_pb2.ListLeasesResponse(leases=leases, next_page_token=following)

    def _unknown(self, name: str) -> ApiError:
        known = ", ".join(self._leasequery.names)
        text = f"{name} is none of leasequery.servers: {known}"
        return ApiError(grpc.StatusCode.NOT_FOUND, "SOURCE_NOT_FOUND", text)

    async def Resync(self, request: leasequery_pb2.ResyncRequest, context: Context) -> leasequery_pb2.ResyncResponse:
        leasequery = self._leasequery

        async def work() -> leasequery_pb2.ResyncResponse:
            try:
                return leasequery_pb2.ResyncResponse(names=await leasequery.resync(request.name or None))
            except KeyError:
                raise self._unknown(request.name) from None

        return await self._once.do(gate.caller.get().name, "Resync", request, work)

    async def Drop(self, request: leasequery_pb2.DropRequest, context: Context) -> leasequery_pb2.DropResponse:
        leasequery = self._leasequery
        if not request.name:
            raise invalid("name", "is missing; name the server whose leases are to be dropped")

        async def work() -> leasequery_pb2.DropResponse:
            try:
                return leasequery_pb2.DropResponse(leases=await leasequery.drop(request.name, request.validate_only))
            except KeyError:
                raise self._unknown(request.name) from None

        return await self._once.do(gate.caller.get().name, "Drop", request, work)


def _filter(
    request: pcp_pb2.ListMappingsRequest | leasequery_pb2.ListLeasesRequest,
) -> tuple[IPv6Network | None, IPv4Network | None, int]:
    """What is "" is no condition; and the size of a page."""
    b4, ipv4, fields = None, None, translate.Fields()
    if request.b4_ipv6:
        with fields:
            b4 = translate.prefix6(request.b4_ipv6, "b4_ipv6")
    if request.ipv4:
        with fields:
            ipv4 = translate.prefix4(request.ipv4, "ipv4")
    with fields:
        size = translate.page_size(request.page_size)
    fields.end()
    return b4, ipv4, size


def _mapping(one: PcpMapping) -> pcp_pb2.Mapping:
    return pcp_pb2.Mapping(
        binding=translate.bindings(one.row, np.array([Source.PCP], np.uint8))[0],
        subscriber=str(one.subscriber),
        expires=translate.timestamp(one.expires),
        protocol=one.protocol,
        third_party=one.third_party,
    )


def _lease(one: KnownLease) -> leasequery_pb2.Lease:
    lease = one.lease
    made = leasequery_pb2.Lease(
        name=one.server,
        ipv4=str(lease.ipv4),
        b4_ipv6="" if lease.b4 is None else str(lease.b4),
        client_id=lease.client,
        state=lease.state.name,
        standing=one.standing,
    )
    if lease.ports is not None:
        made.psid_offset, made.psid_len, made.psid = lease.ports.offset, lease.ports.psid_len, lease.ports.psid
    times = {
        "told": lease.base if lease.base_said else None,
        "last_transaction": lease.cltt,
        "start_of_state": lease.since,
        "expires": lease.expires,
    }
    for name, unix in times.items():
        if unix is not None:
            getattr(made, name).FromSeconds(unix)
    return made


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromMicroseconds(round(seconds * 1e6))
    return made


def _source(one: SourceStatus) -> leasequery_pb2.LeaseSource:
    made = leasequery_pb2.LeaseSource(
        name=one.name,
        state=one.state,
        leases=one.leases,
        conflicts=one.conflicts,
        lag=_duration(one.lag_s),
        queued=one.queued,
        last_fault=one.last_fault,
        quarantined=one.quarantined,
        received=one.received,
        sent=one.sent,
        bulk=one.bulk,
        skew=_duration(one.skew_s),
    )
    if one.last_fault_at is not None:
        made.last_fault_time.CopyFrom(translate.timestamp(one.last_fault_at))
    if one.bulk_at is not None:
        made.last_bulk.CopyFrom(translate.timestamp(one.bulk_at))
    if one.synchronised is not None:
        made.synchronised.CopyFrom(translate.timestamp(one.synchronised))
    return made
