// Sends every connection of this page through the bench's UDP line: the server's candidates get another port.
// lineFor(host, port) is the bench's; only IPv4 UDP passes, or ICE would find a way around.
(() => {
  const pattern = /candidate:(\S+) (\d+) (udp|tcp) (\d+) (\S+) (\d+) typ host.*/i;
  const redirect = async (line) => {
    const found = pattern.exec(line);
    if (!found) return line;
    const [, foundation, component, protocol, priority, host, port] = found;
    if (protocol.toLowerCase() !== 'udp' || host.includes(':')) return null;
    const via = await window.lineFor(host, Number(port));
    return `${line.slice(0, found.index)}candidate:${foundation} ${component} udp ${priority} ${via.host} ${via.port} typ host`;
  };
  const prototype = window.RTCPeerConnection.prototype;
  const { setRemoteDescription, addIceCandidate } = prototype;
  prototype.setRemoteDescription = async function (description) {
    const lines = await Promise.all(description.sdp.split('\r\n').map(redirect));
    return setRemoteDescription.call(this, { type: description.type, sdp: lines.filter((l) => l !== null).join('\r\n') });
  };
  prototype.addIceCandidate = async function (candidate) {
    if (!candidate?.candidate) return addIceCandidate.call(this, candidate);
    const line = await redirect(candidate.candidate);
    if (line === null) return;
    return addIceCandidate.call(this, { candidate: line, sdpMid: candidate.sdpMid, sdpMLineIndex: candidate.sdpMLineIndex });
  };
})();
