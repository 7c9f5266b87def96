"""The settings in force, and how others take their place: validated, compared, and applied whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pylwaftr import config as configuration
from pylwaftr.api.backend import (
    Applied,
    Difference,
    OtherSettings,
    Planned,
    RestartNeeded,
    SettingsFaulty,
    SettingsNow,
)
from pylwaftr.config import Config, ConfigFaults, Fault
from pylwaftr.config.binding_rows import around
from pylwaftr.config.diff import Plan, diff
from pylwaftr.config.nodes import line_of
from pylwaftr.config.row_checks import Surroundings
from pylwaftr.store.files import private, sync_folder

log = logging.getLogger("pylwaftr")

# Takes over what differs. Raises without having changed anything.
Taker = Callable[[Config, Config, Plan], Awaitable[None]]
# Is told of those that were in force and those that are.
Taken = Callable[[Config, Config], None]
# What is wrong with other settings beside what the router has bound under the present ones; called in a thread.
Judge = Callable[[Config, Config], Sequence[Fault]]


class Settings:
    """Implements api.backend.SettingsView. One change at a time; readers see the old or the new."""

    def __init__(
        self, config: Config, takers: Sequence[Taker], judge: Judge, taken: Taken, revision: Callable[[], int]
    ) -> None:
        self._config, self._takers, self._judge, self._revision = config, takers, judge, revision
        self._taken = taken
        self._around = around(config)
        self._file = Path(config.source)
        self._text = self._file.read_bytes().decode("utf-8-sig", "replace")  # as it is read by a reload
        self._applied = time.time()
        self._lock = asyncio.Lock()

    @property
    def config(self) -> Config:
        return self._config

    @property
    def around(self) -> Surroundings:
        return self._around

    def now(self) -> SettingsNow:
        return SettingsNow(self._text, str(self._file), _etag(self._text), self._applied)

    async def close(self) -> None:
        """When a change that has begun is done; from then on none begins."""
        await self._lock.acquire()

    async def validate(self, text: str | None) -> Sequence[Fault]:
        try:
            return (await self._read(text))[1].warnings
        except ConfigFaults as faulty:
            return faulty.faults

    async def diff(self, text: str | None) -> Planned:
        _, new, plan = await self._compared(text)
        return Planned(_shown(plan), new.warnings)

    async def apply(self, text: str | None, etag: str | None, *, validate_only: bool = False) -> Applied:
        async with self._lock:
            if etag is not None and etag != _etag(self._text):
                raise OtherSettings(f"the settings in force have the etag {_etag(self._text)}, not {etag}")
            found, new, plan = await self._compared(text)
            if plan.blocked:
                raise RestartNeeded([difference for difference in _shown(plan) if difference.needs_restart])
            if not validate_only:
                await self._take(found, new, plan, write=text is not None)
            return Applied(_shown(plan), _etag(found), self._revision(), new.warnings)

    async def again(self, act: Callable[[Config], Awaitable[None]]) -> None:
        """Something beside the configuration changed what follows from it."""
        async with self._lock:
            await act(self._config)

    async def _take(self, text: str, new: Config, plan: Plan, write: bool) -> None:
        part = await asyncio.to_thread(self._written, text) if write else None
        try:
            for taker in self._takers:
                await taker(self._config, new, plan)
            if part is not None:
                part.replace(self._file)
        except BaseException:
            if part is not None:
                part.unlink(missing_ok=True)
            raise
        old, self._config, self._text, self._applied = self._config, new, text, time.time()
        self._around = around(new)
        self._taken(old, new)
        if part is not None:
            await asyncio.to_thread(self._sync_folder)
        for warning in new.warnings:
            log.warning("reload: %s", warning)
        for difference in plan.differences:
            log.info("reload: %s", difference)
        log.info(
            "reload: %d keys changed, %s bindings", len(plan.differences), "other" if plan.rows_changed else "same"
        )

    def _written(self, text: str) -> Path:
        """Beside the file, with its owner and rights. Raises SettingsFaulty."""
        part = self._file.with_name(f".{self._file.name}.{os.getpid()}.part")
        try:
            before = self._file.stat()
            with open(part, "w", opener=private) as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            part.chmod(before.st_mode & 0o7777)
            os.chown(part, before.st_uid, before.st_gid)
        except OSError as fault:
            part.unlink(missing_ok=True)
            raise SettingsFaulty([Fault(str(self._file), 1, "file", f"cannot be written: {fault.strerror}")]) from None
        return part

    def _sync_folder(self) -> None:
        """Or the file is the old one again after a power failure."""
        try:
            sync_folder(self._file.parent)
        except OSError as fault:  # it is in force, and written
            log.warning("%s: %s; after a power failure the file may be the old one", self._file, fault.strerror)

    async def _compared(self, text: str | None) -> tuple[str, Config, Plan]:
        try:
            found, new = await self._read(text)
        except ConfigFaults as faulty:
            raise SettingsFaulty(faulty.faults) from None
        return found, new, await asyncio.to_thread(diff, self._config, new)

    async def _read(self, text: str | None) -> tuple[str, Config]:
        """In a thread: a file of a million bindings takes a second. Raises ConfigFaults."""

        def read() -> tuple[str, Config]:
            found = self._text_now() if text is None else text
            new = configuration.load_text(found, str(self._file), self._file.parent)
            told = [replace(one, line=line_of(found, one.path)) for one in self._judge(self._config, new)]
            if any(not one.warning for one in told):
                raise ConfigFaults((*new.warnings, *told))
            return found, replace(new, warnings=(*new.warnings, *told))

        return await asyncio.to_thread(read)

    def _text_now(self) -> str:
        """A start may read a pipe; a reload would wait for its other end, and all that follow for that reload."""
        if os.path.exists(self._file) and not os.path.isfile(self._file):  # noqa: PTH110, PTH113  # raise nothing
            raise ConfigFaults([Fault(str(self._file), 1, "file", "is no regular file: nothing to reload from")])
        return configuration.text_of(self._file)


def _shown(plan: Plan) -> tuple[Difference, ...]:
    return tuple(Difference(found.path, found.old, found.new, found.restart) for found in plan.differences)


def _etag(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
