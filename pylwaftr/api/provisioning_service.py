"""PcpService and LeasequeryService: what the engines hold, and the levers on them."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from pylwaftr.api import gate, translate
from pylwaftr.api.backend import LeasequeryView, Parts, PcpMapping, PcpView, SourceStatus
from pylwaftr.api.errors import ApiError
from pylwaftr.api.generated.lwaftr.v1 import leasequery_pb2, leasequery_pb2_grpc, pcp_pb2, pcp_pb2_grpc
from pylwaftr.api.once import Once
from pylwaftr.api.translate import invalid
from pylwaftr.changes import Source

DEFAULT_PAGE = 1000

Context = aio.ServicerContext[Any, Any]


class PcpService(pcp_pb2_grpc.PcpServiceServicer):
    def __init__(self, parts: Parts, once: Once) -> None:
        self._parts, self._once = parts, once

    @property
    def _pcp(self) -> PcpView:
        if self._parts.pcp is None:
            text = "PCP is switched off; set pcp.enabled: true in the router's configuration"
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "PCP_DISABLED", text)
        return self._parts.pcp

    async def ListMappings(
        self, request: pcp_pb2.ListMappingsRequest, context: Context
    ) -> pcp_pb2.ListMappingsResponse:
        b4 = translate.prefix6(request.b4_ipv6, "b4_ipv6") if request.b4_ipv6 else None
        ipv4 = translate.prefix4(request.ipv4, "ipv4") if request.ipv4 else None
        size = request.page_size or DEFAULT_PAGE
        if size > translate.MAX_BINDINGS:
            raise invalid("page_size", f"is {size}; the range is 1 to {translate.MAX_BINDINGS}")
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

    async def Resync(self, request: leasequery_pb2.ResyncRequest, context: Context) -> leasequery_pb2.ResyncResponse:
        leasequery = self._leasequery

        async def work() -> leasequery_pb2.ResyncResponse:
            try:
                return leasequery_pb2.ResyncResponse(names=await leasequery.resync(request.name or None))
            except KeyError:
                text = f"{request.name} is none of leasequery.servers: " + ", ".join(
                    one.name for one in leasequery.sources()
                )
                raise ApiError(grpc.StatusCode.NOT_FOUND, "SOURCE_NOT_FOUND", text) from None

        return await self._once.do(gate.caller.get().name, "Resync", request, work)


def _mapping(one: PcpMapping) -> pcp_pb2.Mapping:
    return pcp_pb2.Mapping(
        binding=translate.bindings(one.row, np.array([Source.PCP], np.uint8))[0],
        subscriber=str(one.subscriber),
        expires=translate.timestamp(one.expires),
        protocol=one.protocol,
        third_party=one.third_party,
    )


def _source(one: SourceStatus) -> leasequery_pb2.LeaseSource:
    lag = Duration()
    lag.FromMicroseconds(round(one.lag_s * 1e6))
    made = leasequery_pb2.LeaseSource(
        name=one.name,
        state=one.state,
        leases=one.leases,
        conflicts=one.conflicts,
        lag=lag,
        queued=one.queued,
        last_fault=one.last_fault,
    )
    if one.synchronised is not None:
        made.synchronised.CopyFrom(translate.timestamp(one.synchronised))
    return made
