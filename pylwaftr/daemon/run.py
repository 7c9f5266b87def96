"""The life of a router: start, serve, stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from pylwaftr import capture_client, ports
from pylwaftr.config import Config
from pylwaftr.daemon import pauses
from pylwaftr.daemon.eal import stop_eal
from pylwaftr.daemon.observer import Observer
from pylwaftr.daemon.router import Router, Sample, Totals
from pylwaftr.daemon.services import Services, opened_store
from pylwaftr.daemon.start import locked, started, usable_ports
from pylwaftr.ports import PortSpec

log = logging.getLogger("pylwaftr")

POLL_S = 1.0  # how often links and next hops are looked at


# From configuration, ports, arguments for EAL and names of the ports that are taken.
MakeRouter = Callable[[Config, list[PortSpec], Sequence[str], Sequence[str]], Router]


class Watcher(NamedTuple):
    """Someone who is shown a sample again and again."""

    interval_s: float
    see: Callable[[Sample], None]


def run(
    config: Config,
    extra_args: Sequence[str],
    ready: Callable[[], None],
    watchers: Sequence[Watcher],
    make: MakeRouter = started,
) -> Totals:
    """Runs the router that `make` makes until SIGTERM or SIGINT and returns the final counters. Raises StartFault."""
    pauses.shorten()
    # A call over gRPC takes some six turns of the event loop; on libuv's a create forwards 17 % sooner.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config, extra_args, ready, watchers, make))


async def _run(
    config: Config,
    extra_args: Sequence[str],
    ready: Callable[[], None],
    watchers: Sequence[Watcher],
    make: MakeRouter,
) -> Totals:
    stop = _signals()
    specs = usable_ports(config)
    namespace = Path("/proc/self/ns/net").stat().st_ino
    taken = [name for spec in specs if (name := ports.taken(spec, namespace)) is not None]
    with locked(taken, config.source), contextlib.closing(opened_store(config)) as store:
        router = make(config, specs, extra_args, taken)
        try:
            await _live(Services(config, router, store), router, stop, ready, watchers)
            return router.totals()
        finally:
            router.engine.close()
            stop_eal()


async def _live(
    services: Services, router: Router, stop: asyncio.Event, ready: Callable[[], None], watchers: Sequence[Watcher]
) -> None:
    try:
        await services.restore()
        router.start()
        router.engine.announce()
        router.engine.serve_telemetry()
        if (questions := capture_client.own_socket()) is not None:
            log.info("telemetry socket: %s", questions)
        await services.start()
        _reload_on_sighup(services)
        _tell_manager("READY=1")
        ready()
        pauses.settled()
        await _serve(router, stop, watchers)
        _tell_manager("STOPPING=1")
    finally:
        await services.stop()
        router.engine.stop()


def _signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: log.warning("SIGHUP before the router is ready: not heard"))
    return stop


def _reload_on_sighup(services: Services) -> None:
    running: set[asyncio.Task[None]] = set()

    def begin() -> None:
        task = asyncio.create_task(services.reload())
        running.add(task)
        task.add_done_callback(running.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, begin)


def _tell_manager(message: str) -> None:
    """sd_notify: the service manager named a socket."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)


async def _serve(router: Router, stop: asyncio.Event, watchers: Sequence[Watcher]) -> None:
    acts: list[tuple[float, Callable[[], None]]] = [(POLL_S, Observer(router).look)]
    acts += [(watcher.interval_s, functools.partial(_show, router, watcher)) for watcher in watchers]
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(_every(seconds, act)) for seconds, act in acts]
    done, _ = await asyncio.wait([asyncio.create_task(stop.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for task in done:
        task.result()  # a fault of ours ends the router with its trace


def _show(router: Router, watcher: Watcher) -> None:
    watcher.see(router.sample())


async def _every(seconds: float, act: Callable[[], None]) -> None:
    while True:
        act()
        await asyncio.sleep(seconds)
