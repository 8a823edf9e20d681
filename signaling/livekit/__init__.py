"""The LiveKit protocol: unmodified LiveKit SDKs talk to this server.

How the application mounts it::

    keys = ApiKeys.load_or_create(config.data_dir / "keys.json")       # signaling.livekit.token
    media = MediaRooms(node, clock, keys, policy, observer, Limits())  # signaling.livekit.rooms
    app.add_routes(media.routes())       # /rtc, /rtc/v1, their validate twins, /twirp/livekit.RoomService/*
    await media.start()                  # after node.start(); await media.stop() before node.close()

A join over /rtc/v1 carries a whole offer in its URL (Chromium's was 18.5 kB), so the runner needs longer
lines than aiohttp's 8 kB: ``web.AppRunner(app, max_line_size=131_072, max_field_size=131_072)``, and so
does any proxy in front.  ``policy`` and ``observer`` are the protocols in ``policy.py``.
"""
