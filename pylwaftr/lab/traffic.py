"""The programs that the lab's hosts run: `python -m pylwaftr.lab.traffic ROLE …`, one JSON object as the result.

Only the standard library: a role starts within a blink, and could be copied to a real host.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

BLOCK = 1 << 18
_INVERTED = bytes(255 - octet for octet in range(256))
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU = 10, 2, 14

Result = dict[str, object]


def stream(size: int) -> Iterator[bytes]:
    """Octets that both ends know: a block of noise, each time with its number in front."""
    noise = random.Random(7596).randbytes(BLOCK)
    for number in range((size + BLOCK - 1) // BLOCK):
        yield (number.to_bytes(8) + noise[8:])[: size - number * BLOCK]


def digest(size: int) -> str:
    known = hashlib.sha256()
    for block in stream(size):
        known.update(block)
    return known.hexdigest()


class _Enough(Exception):
    """SIGTERM: the other end is done, and a role that watches says what it saw."""


def _end_on_sigterm() -> None:
    def enough(*_: object) -> None:
        raise _Enough

    signal.signal(signal.SIGTERM, enough)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _say_ready() -> None:
    print("ready", flush=True)


def _connection(given: argparse.Namespace) -> socket.socket:
    if given.connect:
        source = _address(given.source) if given.source else None
        return socket.create_connection(_address(given.connect), timeout=given.timeout, source_address=source)
    with socket.create_server(_address(given.listen)) as server:
        server.settimeout(given.timeout)
        _say_ready()
        connection, _ = server.accept()
        connection.settimeout(given.timeout)
        return connection


def tcp(given: argparse.Namespace) -> Result:
    """One connection; --send octets one way, or what comes is taken and hashed."""
    with _connection(given) as connection:
        peer, begin = connection.getpeername(), time.monotonic()
        if given.send:
            for block in stream(given.send):
                connection.sendall(block)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)  # the other end closes when it has everything
            return {"peer": peer, "seconds": time.monotonic() - begin}
        seen, size, buffer = hashlib.sha256(), 0, bytearray(BLOCK)
        while got := connection.recv_into(buffer):
            seen.update(memoryview(buffer)[:got])
            size += got
        return {"peer": peer, "size": size, "sha256": seen.hexdigest(), "seconds": time.monotonic() - begin}


def tcp_echo(given: argparse.Namespace) -> Result:
    """Sends back what the one connection brings, until it ends, SIGTERM or --timeout."""
    _end_on_sigterm()
    echoed, peer = 0, ""
    with suppress(_Enough, TimeoutError), _connection(given) as connection:
        peer = "{}:{}".format(*connection.getpeername())
        while got := connection.recv(2048):
            connection.sendall(got)
            echoed += len(got)
    return {"peer": peer, "echoed": echoed}


def tcp_session(given: argparse.Namespace) -> Result:
    """A numbered line, its echo, a pause; until SIGTERM. A line is printed after each tenth."""
    _end_on_sigterm()
    number, longest = 0, 0.0
    with suppress(_Enough), _connection(given) as connection, connection.makefile("rwb") as lines:
        _say_ready()
        while True:
            number, sent = number + 1, time.monotonic()
            lines.write(b"%d\n" % number)
            lines.flush()
            if lines.readline() != b"%d\n" % number:
                return {"lines": number - 1, "ok": False, "longest": longest}
            longest = max(longest, time.monotonic() - sent)
            if number % 10 == 0:
                print(f"lines {number}", flush=True)
            time.sleep(0.05)
    return {"lines": number, "ok": True, "longest": longest}


def first_answer(given: argparse.Namespace) -> Result:
    """Asks every millisecond until the first answer comes, and tells when, by the machine's monotonic clock."""
    begin, question = time.monotonic(), b"first answer"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        _say_ready()
        while time.monotonic() - begin < given.timeout:
            sock.sendto(question, _address(given.connect))
            time.sleep(0.001)
            with suppress(BlockingIOError):
                sock.recv(2048)
                return {"at": time.monotonic()}
    raise SystemExit("no answer came")


def udp_answer(given: argparse.Namespace) -> Result:
    """Answers each datagram with its octets inverted, until SIGTERM or --timeout."""
    peers: dict[str, int] = {}
    last = b""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(_address(given.listen))
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, 0)  # fragments rather than DF
        sock.settimeout(given.timeout)
        _end_on_sigterm()
        _say_ready()
        with suppress(_Enough, TimeoutError):
            while True:
                last, peer = sock.recvfrom(65535)
                peers[f"{peer[0]}:{peer[1]}"] = peers.get(f"{peer[0]}:{peer[1]}", 0) + 1
                sock.sendto(last.translate(_INVERTED), peer)
    return {"peers": peers, "last": last[:64].hex()}


def udp_ask(given: argparse.Namespace) -> Result:
    """--count datagrams of --size octets, one after the other, each asked up to three times."""
    rng, answered, tries = random.Random(6333), 0, 0
    sock = _asking(given)
    for _ in range(given.count):
        question = rng.randbytes(given.size)
        for _ in range(3):
            tries += 1
            sock.sendto(question, _address(given.connect))
            if _is_answered(sock, question):
                answered += 1
                break
        if given.fresh:
            sock.close()
            sock = _asking(given)
    return {"asked": given.count, "answered": answered, "sent": tries}


def _asking(given: argparse.Namespace) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if given.source:
        sock.bind(_address(given.source))
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, 0)  # fragments rather than DF
    sock.settimeout(1.0)
    return sock


def _is_answered(sock: socket.socket, question: bytes) -> bool:
    wanted = question.translate(_INVERTED)
    try:
        while True:
            if sock.recv(65535) == wanted:
                return True
    except TimeoutError:
        return False


def pmtu(given: argparse.Namespace) -> Result:
    """The path MTU as the kernel learns it from ICMPv4 3/4: DF packets as large as it allows, until one is answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        sock.settimeout(0.5)
        sock.connect(_address(given.connect))
        for sent in range(1, 21):
            known = sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)
            question = random.Random(sent).randbytes(known - 28)
            try:
                sock.send(question)
                if _is_answered(sock, question):
                    return {"pmtu": known, "sent": sent, "answered": True}
            except OSError:  # the 3/4 came: EMSGSIZE once, then the smaller size is known
                continue
        return {"pmtu": sock.getsockopt(socket.IPPROTO_IP, _IP_MTU), "sent": 20, "answered": False}


def echo_identifiers(given: argparse.Namespace) -> Result:
    """Identifiers of the ICMP echo requests that reach this host, by source, until SIGTERM or --timeout."""
    seen: dict[str, list[int]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(given.timeout)
        _end_on_sigterm()
        _say_ready()
        with suppress(_Enough, TimeoutError):
            while True:
                packet, peer = sock.recvfrom(65535)
                message = packet[(packet[0] & 15) * 4 :]
                if message[0] == 8:
                    seen.setdefault(peer[0], []).append(struct.unpack("!H", message[4:6])[0])
    return {"identifiers": {peer: sorted(set(found)) for peer, found in seen.items()}}


def encap_limit(given: argparse.Namespace) -> Result:
    """An inner UDP packet through a raw socket of protocol 4, for which the kernel writes the destination options
    header with the tunnel encapsulation limit (RFC 2473 section 4.1.1), as Linux' ip6tnl does by default."""
    source, destination = _address(given.source), _address(given.connect)
    payload = b"encapsulation limit 4"
    ports = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0)
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    head = head[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:]
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_IPIP) as sock:
        sock.bind((given.tunnel[0], 0))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, bytes([0, 0, 4, 1, 4, 1, 1, 0]))
        for _ in range(given.count):
            sock.sendto(head + ports + payload, (given.tunnel[1], 0))
            time.sleep(0.1)
    return {"payload": payload.hex()}


def next_headers(given: argparse.Namespace) -> Result:
    """First next header of each IPv6 packet that leaves or enters the interface, until SIGTERM or --timeout."""
    seen: dict[int, int] = {}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:  # ETH_P_ALL
        sock.bind((given.interface, 0))
        sock.settimeout(given.timeout)
        _end_on_sigterm()
        _say_ready()
        with suppress(_Enough, TimeoutError):
            while True:
                frame = sock.recv(2048)
                if frame[12:14] == b"\x86\xdd":
                    seen[frame[20]] = seen.get(frame[20], 0) + 1
    return {"next_headers": {str(header): n for header, n in seen.items()}}


ROLES = (
    tcp,
    tcp_echo,
    tcp_session,
    first_answer,
    udp_answer,
    udp_ask,
    pmtu,
    echo_identifiers,
    encap_limit,
    next_headers,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pylwaftr.lab.traffic")
    parser.add_argument("role", choices=[role.__name__.replace("_", "-") for role in ROLES])
    for name in ("--listen", "--connect", "--source", "--interface"):
        parser.add_argument(name, help="HOST:PORT" if name != "--interface" else None)
    parser.add_argument("--tunnel", nargs=2, metavar=("B4", "AFTR"))
    for name, default in (("--send", 0), ("--size", 64), ("--count", 1)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--fresh", action="store_true", help="each datagram from another port")
    parser.add_argument("--timeout", type=float, default=30.0)
    given = parser.parse_args()
    role = next(role for role in ROLES if role.__name__.replace("_", "-") == given.role)
    print(json.dumps(role(given)), flush=True)


if __name__ == "__main__":
    main()
