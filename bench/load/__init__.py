"""WebRTC load that costs little: packets in C (engine.c), signalling and handshakes in Python."""
