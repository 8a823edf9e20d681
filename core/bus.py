"""The bus: short messages between control processes (and inside one).  In-process by default, Redis by URL.

At most once, no memory: who subscribes later or is away misses messages.  Whoever needs the whole truth
reads the database; the bus only says that something has changed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, Self

import structlog

from core import counters
from core.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

log = structlog.get_logger(__name__)

QUEUE_LENGTH = 1024
_RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)


class Subscription:
    """Async iterator of payloads.  Bounded: a slow reader loses the oldest, counted in ``dropped``."""

    def __init__(self, length: int) -> None:
        self._queue: deque[bytes] = deque()
        self._length = length
        self._ready = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def put(self, payload: bytes) -> None:
        if len(self._queue) >= self._length:
            self._queue.popleft()
            self.dropped += 1
            counters.refused("bus_overflow")
        self._queue.append(payload)
        self._ready.set()

    def close(self) -> None:
        """Ends the iteration once what is queued has been read."""
        self._closed = True
        self._ready.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._queue.popleft()


class Bus(Protocol):
    kind: str

    async def publish(self, topic: str, payload: bytes) -> None:
        """To everyone subscribed now, the publisher's own subscriptions too.  Raises Unavailable."""

    def subscribe(
        self, topic: str, *, length: int = QUEUE_LENGTH
    ) -> AbstractAsyncContextManager[Subscription]:
        """Once the block is entered, every later ``publish`` is seen."""

    async def ping(self) -> None:
        """Raises Unavailable when the bus does not answer."""

    async def close(self) -> None: ...


class _Topics:
    """Who listens to what, in this process."""

    def __init__(self) -> None:
        self._by_topic: dict[str, tuple[Subscription, ...]] = {}

    def add(self, topic: str, subscription: Subscription) -> bool:
        """True if it is the topic's first."""
        before = self._by_topic.get(topic, ())
        self._by_topic[topic] = (*before, subscription)
        return not before

    def remove(self, topic: str, subscription: Subscription) -> bool:
        """True if it was the topic's last."""
        left = tuple(s for s in self._by_topic.get(topic, ()) if s is not subscription)
        if left:
            self._by_topic[topic] = left
            return False
        return self._by_topic.pop(topic, None) is not None

    def deliver(self, topic: str, payload: bytes) -> None:
        for subscription in self._by_topic.get(topic, ()):
            subscription.put(payload)

    def names(self) -> list[str]:
        return list(self._by_topic)

    def close(self) -> None:
        for subscriptions in self._by_topic.values():
            for subscription in subscriptions:
                subscription.close()
        self._by_topic.clear()


class LocalBus:
    kind = "local"

    def __init__(self) -> None:
        self._topics = _Topics()

    async def publish(self, topic: str, payload: bytes) -> None:
        self._topics.deliver(topic, bytes(payload))

    @asynccontextmanager
    async def subscribe(self, topic: str, *, length: int = QUEUE_LENGTH) -> AsyncIterator[Subscription]:
        subscription = Subscription(length)
        self._topics.add(topic, subscription)
        try:
            yield subscription
        finally:
            self._topics.remove(topic, subscription)

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        self._topics.close()


class RedisBus:
    """Redis publish/subscribe.  One connection listens for all subscriptions of the process.

    When that connection is lost it is opened again and every topic subscribed anew; what was published
    meanwhile is lost, as the bus promises no memory.
    """

    kind = "redis"

    def __init__(self, url: str, *, prefix: str = "lianxin:") -> None:
        from redis.asyncio import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._prefix = prefix
        try:
            self._redis: Any = Redis.from_url(url, retry=Retry(NoBackoff(), 1))
        except ValueError as error:
            raise ConfigError(f"bus.url can't be read as a Redis address: {error}") from error
        self._topics = _Topics()
        self._pubsub: Any = None
        self._listener: asyncio.Task[None] | None = None
        self._confirmations: dict[str, asyncio.Event] = {}
        self._change = asyncio.Lock()

    async def publish(self, topic: str, payload: bytes) -> None:
        from redis.exceptions import RedisError

        try:
            await self._redis.publish(self._prefix + topic, bytes(payload))
        except (RedisError, OSError) as error:
            counters.refused("bus_unavailable")
            raise _unavailable(error) from error

    @asynccontextmanager
    async def subscribe(self, topic: str, *, length: int = QUEUE_LENGTH) -> AsyncIterator[Subscription]:
        subscription = Subscription(length)
        await self._open(topic, subscription)
        try:
            yield subscription
        finally:
            await self._shut(topic, subscription)

    async def _open(self, topic: str, subscription: Subscription) -> None:
        from redis.exceptions import RedisError

        async with self._change:
            first = self._topics.add(topic, subscription)
            try:
                if self._pubsub is None:
                    self._pubsub = self._redis.pubsub()
                if first:
                    confirmed = self._confirmations[topic] = asyncio.Event()
                    await self._pubsub.subscribe(self._prefix + topic)
                    if self._listener is None:
                        self._listener = asyncio.create_task(self._listen(), name="redis bus")
                else:
                    confirmed = self._confirmations[topic]
                await asyncio.wait_for(confirmed.wait(), 10)
            except (RedisError, OSError, TimeoutError) as error:
                self._topics.remove(topic, subscription)
                raise _unavailable(error) from error
            except BaseException:
                self._topics.remove(topic, subscription)
                raise

    async def _shut(self, topic: str, subscription: Subscription) -> None:
        from redis.exceptions import RedisError

        async with self._change:
            if self._topics.remove(topic, subscription):
                self._confirmations.pop(topic, None)
                with suppress(RedisError, OSError):
                    await self._pubsub.unsubscribe(self._prefix + topic)

    async def _listen(self) -> None:
        from redis.exceptions import RedisError

        attempt = 0
        while True:
            try:
                message = await self._pubsub.get_message(timeout=None)
                attempt = 0
            except (RedisError, OSError) as error:
                delay = _RETRY_S[min(attempt, len(_RETRY_S) - 1)]
                attempt += 1
                log.warning("bus connection lost, trying again", error=str(error), delay_s=delay)
                counters.refused("bus_reconnect")
                await asyncio.sleep(delay)
                await self._subscribe_again()
                continue
            if message is None:
                # Nothing is subscribed just now: the library answers at once, so don't spin.
                await asyncio.sleep(0.05)
                continue
            topic = message["channel"].decode()[len(self._prefix) :]
            if message["type"] == "message":
                self._topics.deliver(topic, message["data"])
            elif message["type"] == "subscribe" and (confirmed := self._confirmations.get(topic)):
                confirmed.set()

    async def _subscribe_again(self) -> None:
        """A new connection with all our topics; the lost one may be half open."""
        from redis.exceptions import RedisError

        with suppress(RedisError, OSError):
            await self._pubsub.aclose()
        self._pubsub = self._redis.pubsub()
        names = [self._prefix + name for name in self._topics.names()]
        if names:
            with suppress(RedisError, OSError):
                await self._pubsub.subscribe(*names)

    async def ping(self) -> None:
        from redis.exceptions import RedisError

        try:
            await asyncio.wait_for(self._redis.ping(), 5)
        except (RedisError, OSError, TimeoutError) as error:
            raise _unavailable(error) from error

    async def close(self) -> None:
        from redis.exceptions import RedisError

        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None
        self._topics.close()
        with suppress(RedisError, OSError):
            if self._pubsub is not None:
                await self._pubsub.aclose()
            await self._redis.aclose()


def open_bus(url: str) -> LocalBus | RedisBus:
    """``local:`` for the bus inside this process, ``redis://…``, ``rediss://…`` or ``unix://…`` for Redis."""
    if url in ("local:", "local", ""):
        return LocalBus()
    if url.startswith(("redis://", "rediss://", "unix://")):
        return RedisBus(url)
    raise ConfigError("bus.url must be local: or begin with redis://, rediss:// or unix://")


def _unavailable(error: BaseException) -> Unavailable:
    return Unavailable(
        "bus_unavailable",
        "消息总线没有响应。",
        f"The bus does not answer: {str(error) or type(error).__name__}",
    )
