"""What the benches share: ports, templates, versions, the machine, and the ends of processes."""

import argparse
import os
import platform
import pwd
import random
import re
import socket
import subprocess
from pathlib import Path


class Refusal(Exception):
    """The run says nothing about the proxies, and why."""


# What was given out in this run, though perhaps nobody listens there yet.
GIVEN = set()


def free_ports(count):
    """Loopback ports below those that the system gives to outgoing connections: a backend that restarts must find its
    port free again."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    held = []
    try:
        for _ in range(1000):
            if len(held) == count:
                return [each.getsockname()[1] for each in held]
            port = random.randrange(10000, low)
            if port in GIVEN:
                continue
            try:
                held.append(socket.create_server(("127.0.0.1", port)))
                GIVEN.add(port)
            except OSError:
                continue  # taken
        raise Refusal(f"no {count} free ports below {low}")
    finally:
        for each in held:
            each.close()


def fill(template, values, file):
    """Writes a template to `file`, with `values` in the place of its @NAMES@ and without the line that explains them."""
    text = "\n".join(line for line in template.read_text().splitlines() if "@NAMES@" not in line)
    values = {"USER": pwd.getpwuid(os.getuid()).pw_name} | values
    # Twice, for what is filled in may hold names itself.
    for _ in range(2):
        text = re.sub(r"@([A-Z_0-9]+)@", lambda found: str(values[found.group(1)]), text)
    file.write_text(text + "\n")
    return file


def end(processes):
    """The first one last, or the others would log its end."""
    for process in reversed(processes):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def machine():
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def first_line(*command):
    """What a tool says of its version, whatever its exit code; wrk says it with 1."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).split("\n")
    return next((line.strip() for line in lines if line.strip()), "unknown")


def versions(options, proxies, tools=None):
    """The version of each proxy and each tool, as "NAME NUMBER" where its word for it holds a number."""
    commands = {
        "nginx": ["nginx", "-v"],
        "haproxy": ["haproxy", "-v"],
        "envoy": [options.envoy, "--version"],
        "stent": [options.stent, "--version"],
    }
    wanted = {name: command for name, command in commands.items() if name in proxies} | (tools or {})
    found = {name: first_line(*command) for name, command in wanted.items()}
    for name in found:
        # "nginx version: nginx/1.22.1", "HAProxy version 2.6.12-1+deb12u4 2026/…", "… version: HASH/1.40.0/Clean/…"
        number = re.search(r"\d+\.\d+\.\d+[^\s/]*", found[name])
        found[name] = f"{name} {number.group()}" if number else found[name]
    return found | {"python": f"python {platform.python_version()}"}


def names(known):
    """A type for argparse: a list of these with commas between."""

    def parse(text):
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return chosen

    return parse
