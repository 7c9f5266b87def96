"""A lwAFTR of one thread and no table, for the tests of the lwB4 as a program: the real PCP server, and an echo host.

Reads commands on its standard input, one a line: `forget` (state is lost), `announce` (it says so to all who asked). A
softwire packet that no grant covers is answered with ICMPv6 1/5; a UDP datagram that one covers comes back.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from ipaddress import IPv6Address

from pylwaftr import framing
from pylwaftr.pcp import codec
from pylwaftr.pcp.numbers import IPV4_MAPPED
from pylwaftr.pcp.outcome import Sender
from pylwaftr.pcp.server import PcpServer
from tests import pcp_world

_SET = 2048  # ports


class Aftr:
    def __init__(self, address: IPv6Address) -> None:
        self._address = address.packed
        self._tunnel = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_IPIP)
        self._errors = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        for each in (self._tunnel, self._errors):
            each.bind((str(address), 0))
        self._forget()
        self._asked: dict[bytes, int] = {}  # tunnel address -> port of its client

    def _forget(self) -> None:
        self._server = PcpServer(pcp_world.settings(pools=(pcp_world.pool("203.0.113.7/32"),)), time.time())
        self._bound: dict[tuple[bytes, int], bytes] = {}  # address and first port -> tunnel address

    def serve(self) -> None:
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([self._tunnel, sys.stdin], [], [])
            if sys.stdin in ready:
                lines = os.read(0, 1000).decode()
                if not lines:
                    return
                for line in lines.split():  # two commands may come at once
                    self._command(line)
            if self._tunnel in ready:
                data, source = self._tunnel.recvfrom(65535)
                self._packet(data, IPv6Address(source[0]).packed)

    def _command(self, command: str) -> None:
        if command == "forget":
            self._forget()
        elif command == "announce":
            message = codec.encode_response(codec.AnnounceResponse(self._server.epoch(time.time())))
            for tunnel, port in self._asked.items():
                self._send(framing.wrap(message, self._address, tunnel, bytes([192, 0, 0, 1]), 5351,
                                        bytes([192, 0, 0, 2]), port))  # fmt: skip
        print(f"did {command}", flush=True)

    def _packet(self, data: bytes, tunnel: bytes) -> None:
        outer = struct.pack("!IHBB", 6 << 28, len(data), 4, 64) + tunnel + self._address
        punted = framing.strip(outer + data)
        if punted is None:
            return
        if punted.destination == bytes([192, 0, 0, 1]):
            self._asked[tunnel] = punted.source_port
            self._request(punted)
        elif self._bound.get((punted.source, punted.source_port // _SET * _SET)) != tunnel:
            body = b"\x01\x05" + bytes(6) + outer + data
            self._errors.sendto(body, (str(IPv6Address(tunnel)), 0))
        else:
            print(f"data from {punted.source_port}", flush=True)
            self._send(framing.reply(punted, punted.payload))

    def _request(self, punted: framing.Punted) -> None:
        sender = Sender(punted.tunnel, punted.br, IPV4_MAPPED + punted.source, punted.source_port)
        outcome = self._server.receive(punted.payload, sender, time.time())
        for row in outcome.unbind:
            self._bound.pop((int(row["ipv4"]).to_bytes(4), int(row["psid"]) * _SET), None)
        for row in outcome.bind:
            self._bound[int(row["ipv4"]).to_bytes(4), int(row["psid"]) * _SET] = row["b4"].tobytes()
        request = codec.decode_request(punted.payload, IPV4_MAPPED + punted.source)
        if isinstance(request, codec.MapRequest):
            print(f"asked {request.nonce.hex()} {request.external_port} {request.lifetime}", flush=True)
        if outcome.reply is not None:
            self._send(framing.reply(punted, outcome.reply))

    def _send(self, packet: bytes) -> None:
        self._tunnel.sendto(packet[40:], (str(IPv6Address(packet[24:40])), 0))


if __name__ == "__main__":
    Aftr(IPv6Address(sys.argv[1])).serve()
