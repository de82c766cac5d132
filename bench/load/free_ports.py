"""Prints COUNT free loopback ports on one line; all are held until every one is known, so that no two are the same."""

import socket
import sys

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(each.getsockname()[1] for each in sockets))
