// WebSockets by number, for a test that drives this page. Bytes come and go in base64.
"use strict";

const sockets = [];

function open(url) {
  const socket = new WebSocket(url, "derp");
  const held = { socket, came: [], longest: 0, wake: () => {} };
  socket.binaryType = "arraybuffer";
  held.closed = new Promise((resolve) => {
    socket.onclose = ({ code, reason, wasClean }) => {
      resolve({ code, reason, wasClean });
      held.wake();
    };
  });
  socket.onmessage = ({ data }) => {
    held.came.push(new Uint8Array(data));
    held.longest = Math.max(held.longest, data.byteLength);
    held.wake();
  };
  const number = sockets.push(held) - 1;
  return new Promise((resolve, reject) => {
    socket.onopen = () => resolve({ number, protocol: socket.protocol, extensions: socket.extensions });
    socket.onerror = () => reject(new Error(`no WebSocket at ${url}`));
  });
}

// All that has come since the last time, as soon as there is something; null at the end.
async function take(number) {
  const held = sockets[number];
  if (held.came.length === 0 && held.socket.readyState !== WebSocket.CLOSED) {
    await new Promise((resolve) => { held.wake = resolve; });
  }
  const came = held.came.splice(0);
  return came.length === 0 ? null : new Uint8Array(await new Blob(came).arrayBuffer()).toBase64();
}

function send(number, bytes) {
  sockets[number].socket.send(Uint8Array.fromBase64(bytes));
}

function sendText(number, text) {
  sockets[number].socket.send(text);
}

function longest(number) {
  return sockets[number].longest;
}

function close(number, code, reason) {
  sockets[number].socket.close(code, reason);
}

function closed(number) {
  return sockets[number].closed;
}
