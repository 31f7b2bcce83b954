"""Put this folder on PYTHONPATH: every Python process then writes down whom it calls.

A call that would leave this machine is written down and refused: nothing is ever sent there. What
compiled code sends by itself goes unseen; docs/supply-chain.md says how that was looked at.
"""

import ipaddress
import json
import os
import sys

LOG = os.environ.get("VAESC_NETWORK_LOG")
CALLS = {
    "socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0, "socket.gethostbyaddr": 0, "socket.getnameinfo": 0,
}  # fmt: skip
"""Python's audit events that name another side, and which of their arguments does."""


def host_of(address):
    """Return the host of a socket's address or of a look-up; None if there is none in it."""
    host = address[0] if isinstance(address, tuple) else address
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode(errors="replace")
    return host if isinstance(host, str) and host else None


def stays_here(host):
    """Tell whether a host is this machine; a path is a UNIX socket."""
    if host is None or host == "localhost" or host.startswith(("/", "\0")):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def write(**line):
    """Append one line, whole, whoever else is writing."""
    text = json.dumps({"process": " ".join(sys.orig_argv)[:300], **line}) + "\n"
    log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, text.encode())
    os.close(log)


def watch(event, arguments):
    """Write down a call; refuse one to elsewhere."""
    if event in CALLS:
        host = host_of(arguments[CALLS[event]])
        write(event=event, host=host, here=stays_here(host))
        if not stays_here(host):
            raise OSError(f"the test refuses {event} to {host}")


if LOG:
    write(event="start")
    sys.addaudithook(watch)
