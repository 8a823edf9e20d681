"""An unmodified LiveKit Python SDK client, driven over stdin and stdout (JSON, one a line).

Run by tests/fixtures/netns.py in a network namespace.  Options: url, token, single, auto_subscribe, dynacast,
every (which pictures it tells of: every tenth unless said otherwise).
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from typing import Any

import numpy as np
from livekit import rtc

WIDTH, HEIGHT = 640, 360


def say(fact: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"fact": fact, **values}) + "\n")
    sys.stdout.flush()


class Client:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.room: rtc.Room
        self.tasks: set[asyncio.Task[Any]] = set()
        self.publications: dict[str, rtc.LocalTrackPublication] = {}
        self.stopped = asyncio.Event()

    def spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self) -> None:
        room = self.room = rtc.Room()  # it binds itself to the running loop

        def on(event: str, handler: Any) -> None:
            room.on(event, handler)

        on("participant_connected", lambda p: say("participant_connected", identity=p.identity))
        on("participant_disconnected", lambda p: say("participant_disconnected", identity=p.identity))
        on(
            "track_published",
            lambda pub, p: say(
                "track_published", identity=p.identity, sid=pub.sid, source=int(pub.source), muted=pub.muted
            ),
        )
        on("track_unpublished", lambda pub, p: say("track_unpublished", identity=p.identity, sid=pub.sid))
        on(
            "track_unsubscribed",
            lambda t, pub, p: say("track_unsubscribed", identity=p.identity, sid=pub.sid),
        )
        on(
            "track_subscription_failed",
            lambda p, sid, error: say("subscription_failed", sid=sid, error=str(error)),
        )
        on("track_muted", lambda p, pub: say("track_muted", identity=p.identity, sid=pub.sid))
        on("track_unmuted", lambda p, pub: say("track_unmuted", identity=p.identity, sid=pub.sid))
        on(
            "active_speakers_changed",
            lambda speakers: say("speakers", identities=[s.identity for s in speakers]),
        )
        on("connection_quality_changed", lambda p, q: say("quality", identity=p.identity, quality=int(q)))
        on(
            "participant_metadata_changed",
            lambda p, old, new: say("metadata", identity=p.identity, metadata=p.metadata),
        )
        on(
            "participant_attributes_changed",
            lambda changed, p: say("attributes", identity=p.identity, attributes=dict(p.attributes)),
        )
        on("room_metadata_changed", lambda old, new: say("room_metadata", metadata=new))
        on("local_track_subscribed", lambda track: say("local_track_subscribed", sid=track.sid))
        on("local_track_published", lambda pub, t: say("local_track_published", sid=pub.sid))
        on("reconnecting", lambda: say("reconnecting"))
        on("reconnected", lambda: say("reconnected"))
        on("disconnected", lambda reason: say("disconnected", reason=int(reason)))
        on(
            "data_received",
            lambda packet: say(
                "data",
                text=packet.data.decode(),
                topic=packet.topic,
                identity=packet.participant.identity if packet.participant else None,
                kind=int(packet.kind),
            ),
        )
        on("track_subscribed", self.on_track)
        options = rtc.RoomOptions(
            auto_subscribe=self.options.get("auto_subscribe", True),
            dynacast=self.options.get("dynacast", False),
            single_peer_connection=self.options.get("single", True),
        )
        try:
            await asyncio.wait_for(room.connect(self.options["url"], self.options["token"], options), 20)
        except Exception as error:
            say("connect_failed", error=repr(error))
            return
        say(
            "connected",
            sid=room.local_participant.sid,
            participants=[p.identity for p in room.remote_participants.values()],
        )
        await self.commands()
        for task in self.tasks:
            task.cancel()
        await room.disconnect()
        say("bye")

    def on_track(self, track: Any, publication: Any, participant: Any) -> None:
        kind = "video" if track.kind == rtc.TrackKind.KIND_VIDEO else "audio"
        say(
            "track_subscribed",
            identity=participant.identity,
            sid=publication.sid,
            kind=kind,
            source=int(publication.source),
        )
        if kind == "video":
            self.spawn(self.watch(track, participant.identity, publication.sid))
        else:
            self.spawn(self.listen(track, participant.identity, publication.sid))

    async def watch(self, track: Any, identity: str, sid: str) -> None:
        """Says the mean colour and size of every tenth picture."""
        count, every = 0, self.options.get("every", 10)
        async for event in rtc.VideoStream(track, format=rtc.VideoBufferType.RGBA):
            count += 1
            if count % every == 1 % every:
                frame = event.frame
                pixels = np.frombuffer(frame.data, dtype=np.uint8).reshape(frame.height, frame.width, 4)
                colour = [int(value) for value in pixels[::8, ::8, :3].reshape(-1, 3).mean(axis=0)]
                say(
                    "picture",
                    identity=identity,
                    sid=sid,
                    width=frame.width,
                    height=frame.height,
                    colour=colour,
                    count=count,
                )
        say("picture_end", identity=identity, sid=sid)

    async def listen(self, track: Any, identity: str, sid: str) -> None:
        """Says loudness and the strongest frequency of about every half second."""
        samples: list[np.ndarray[Any, Any]] = []
        async for event in rtc.AudioStream(track, sample_rate=48_000, num_channels=1):
            samples.append(np.frombuffer(bytes(event.frame.data), dtype=np.int16))  # its memory is reused
            if sum(map(len, samples)) >= 16_384:
                block = np.concatenate(samples)[:16_384].astype(np.float64)
                samples = []
                spectrum = np.abs(np.fft.rfft(block * np.hanning(len(block))))
                rms = math.sqrt(float(np.mean(block**2)))
                hz = int(np.argmax(spectrum)) * 48_000 / 16_384
                say("sound", identity=identity, sid=sid, rms=round(rms), hz=round(hz))

    async def commands(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            name = command.pop("do")
            if name == "quit":
                return
            try:
                await getattr(self, f"do_{name}")(**command)
            except Exception as error:
                say("failed", command=name, error=repr(error))

    async def do_video(
        self,
        colour: list[int],
        name: str = "camera",
        simulcast: bool = True,
        source: int = 1,
        width: int = WIDTH,
        height: int = HEIGHT,
        codec: int | None = None,
    ) -> None:
        video = rtc.VideoSource(width, height)
        track = rtc.LocalVideoTrack.create_video_track(name, video)
        options = rtc.TrackPublishOptions(source=source, simulcast=simulcast)
        if codec is not None:
            options.video_codec = codec
        self.spawn(self.paint(video, colour, width, height))
        publication = await self.room.local_participant.publish_track(track, options)
        self.publications[name] = publication
        say("published", name=name, sid=publication.sid)

    async def paint(self, video: Any, colour: list[int], width: int, height: int) -> None:
        picture = np.empty((height, width, 4), dtype=np.uint8)
        number = 0
        while True:
            picture[:, :] = (*colour, 255)
            number += 1
            picture[: height // 8, (number * 8) % (width - 32) :][:, :32] = 255  # something that moves
            video.capture_frame(rtc.VideoFrame(width, height, rtc.VideoBufferType.RGBA, picture.tobytes()))
            await asyncio.sleep(1 / 20)

    async def do_audio(self, hz: float, name: str = "microphone") -> None:
        audio = rtc.AudioSource(48_000, 1)
        track = rtc.LocalAudioTrack.create_audio_track(name, audio)
        self.spawn(self.sing(audio, hz))
        publication = await self.room.local_participant.publish_track(
            track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        )
        self.publications[name] = publication
        say("published", name=name, sid=publication.sid)

    async def sing(self, audio: Any, hz: float) -> None:
        at = 0
        while True:
            time = (np.arange(480) + at) / 48_000
            wave = (np.sin(2 * np.pi * hz * time) * 10_000).astype(np.int16)
            at += 480
            await audio.capture_frame(rtc.AudioFrame(wave.tobytes(), 48_000, 1, 480))

    async def do_unpublish(self, name: str) -> None:
        await self.room.local_participant.unpublish_track(self.publications.pop(name).sid)
        say("unpublished", name=name)

    async def do_mute(self, name: str, muted: bool) -> None:
        track = self.publications[name].track
        track.mute() if muted else track.unmute()

    async def do_data(
        self, text: str, reliable: bool = True, to: list[str] | None = None, topic: str = "t"
    ) -> None:
        await self.room.local_participant.publish_data(
            text, reliable=reliable, destination_identities=to or [], topic=topic
        )

    async def do_subscribe(self, sid: str, wanted: bool) -> None:
        for participant in self.room.remote_participants.values():
            publication = participant.track_publications.get(sid)
            if publication is not None:
                publication.set_subscribed(wanted)

    async def do_attributes(self, attributes: dict[str, str]) -> None:
        await self.room.local_participant.set_attributes(attributes)
        say("attributes_set")

    async def do_metadata(self, metadata: str) -> None:
        await self.room.local_participant.set_metadata(metadata)
        say("metadata_set")

    async def do_simulate(self, scenario: int) -> None:
        await self.room.simulate_scenario(scenario)


if __name__ == "__main__":
    asyncio.run(Client(json.loads(sys.argv[1])).run())
    os._exit(0)  # the native runtime's threads may outlive the loop
