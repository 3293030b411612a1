"""Hosts made of network namespaces, joined by veth pairs whose rate `tc tbf` limits, and an all-to-all among them.

One process a host runs `python socket_hosts.py HOST`, reads traffic matrices from its standard input, a JSON line each,
exchanges them through torch.distributed's gloo, and answers with seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

QUEUE_MILLISECONDS = 60
"""How much a port may queue. Below some 40 ms TCP loses packets before it has found its rate."""
BURST_BYTES = 65_536
PORT = 29_617


@dataclass(frozen=True, slots=True)
class Wiring:
    """`leaf_of` each host; more than one leaf are joined by links of `uplink_megabits` to a core."""

    port_megabits: float
    leaf_of: tuple[int, ...]
    uplink_megabits: float | None = None

    @property
    def hosts(self) -> int:
        return len(self.leaf_of)


def cannot_run() -> str | None:
    """Why there can be no namespaces here, None if there can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} is not installed (iproute2)" if missing else None


@dataclass(frozen=True, slots=True)
class Measured:
    """For each repeat the seconds from the first host's begin to each message's end, by (source, target).

    `collective` are the seconds of the same exchange by `all_to_all_single`.
    """

    repeats: list[dict[tuple[int, int], float]]
    collective: float


class Hosts:
    """The namespaces of one wiring and the processes in them; use as a context."""

    def __init__(self, wiring: Wiring, python: str = sys.executable) -> None:
        self.wiring = wiring
        self.python = python
        self.prefix = f"pst{os.getpid() % 10_000}"
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Hosts:
        try:
            self._wire()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for name in [*(self._host(host) for host in range(self.wiring.hosts)), self._switch()]:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def exchange(self, bytes_HH: Sequence[Sequence[int]], repeats: int) -> Measured:
        """Exchanges `bytes_HH[i][j]` bytes from each host i to each j, `repeats` times, and once by the collective."""
        line = json.dumps({"bytes": bytes_HH, "repeats": repeats}) + "\n"
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()
        answers = [self._answer(process) for process in self.processes]
        flows = [_flows([answer["posted"][repeat] for answer in answers]) for repeat in range(repeats)]
        begin = min(answer["collective"]["begin"] for answer in answers)
        collective = max(answer["collective"]["end"] for answer in answers) - begin
        return Measured(flows, collective)

    def set_port_rate(self, megabits: float) -> None:
        """Another rate for every host's port, both ways."""
        for host in range(self.wiring.hosts):
            for place, link in ((self._host(host), "eth0"), (self._switch(), f"port{host}")):
                _inside(place, "tc", "qdisc", "change", "dev", link, "root", "tbf", *_limit(megabits))

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a host ended with exit code {process.wait()}")
        return json.loads(line)

    def _wire(self) -> None:
        switch, wiring = self._switch(), self.wiring
        _run("ip", "netns", "add", switch)
        leaves = sorted(set(wiring.leaf_of))
        for leaf in leaves:
            _inside(switch, "ip", "link", "add", f"leaf{leaf}", "type", "bridge")
            _inside(switch, "ip", "link", "set", f"leaf{leaf}", "up")
        if len(leaves) > 1:
            assert wiring.uplink_megabits is not None
            _inside(switch, "ip", "link", "add", "core", "type", "bridge")
            _inside(switch, "ip", "link", "set", "core", "up")
            for leaf in leaves:
                self._join(switch, f"up{leaf}", f"leaf{leaf}", switch, f"down{leaf}", "core", wiring.uplink_megabits)
        for host, leaf in enumerate(wiring.leaf_of):
            name = self._host(host)
            _run("ip", "netns", "add", name)
            _inside(name, "ip", "link", "set", "lo", "up")
            _inside(name, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=bbr")
            self._join(name, "eth0", None, switch, f"port{host}", f"leaf{leaf}", wiring.port_megabits)
            _inside(name, "ip", "address", "add", f"10.77.0.{host + 1}/24", "dev", "eth0")

    def _join(self, a: str, a_link: str, a_bridge: str | None, b: str, b_link: str, b_bridge: str, rate: float) -> None:
        """A veth pair from namespace `a` to `b`, limited to `rate` Mbit/s both ways."""
        _inside(a, "ip", "link", "add", a_link, "type", "veth", "peer", "name", b_link, "netns", b)
        for place, link, bridge in ((a, a_link, a_bridge), (b, b_link, b_bridge)):
            if bridge:
                _inside(place, "ip", "link", "set", link, "master", bridge)
            _inside(place, "ip", "link", "set", link, "up")
            _inside(place, "tc", "qdisc", "add", "dev", link, "root", "tbf", *_limit(rate))

    def _start(self) -> None:
        for host in range(self.wiring.hosts):
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
            command = [
                "ip",
                "netns",
                "exec",
                self._host(host),
                self.python,
                __file__,
                str(host),
                str(self.wiring.hosts),
            ]
            self.processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # gloo warns of host names that namespaces do not have
                    text=True,
                    env=environment,
                    bufsize=1,
                )
            )
        for process in self.processes:
            self._answer(process)

    def _host(self, host: int) -> str:
        return f"{self.prefix}h{host}"

    def _switch(self) -> str:
        return f"{self.prefix}s"


@contextlib.contextmanager
def serving(host: int, hosts: int) -> Iterator[Any]:
    """The process group of one host."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://10.77.0.1:{PORT}", rank=host, world_size=hosts)
    try:
        yield dist
    finally:
        dist.destroy_process_group()


def serve(host: int, hosts: int) -> None:
    """Exchanges what it is told to, until its standard input ends. Clocks of one machine's processes agree."""
    with serving(host, hosts) as dist:
        sys.stdout.write("{}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            order = json.loads(line)
            collective = _collective(dist, host, order["bytes"])
            posted = [_posted(dist, host, order["bytes"]) for _ in range(order["repeats"])]
            sys.stdout.write(json.dumps({"collective": collective, "posted": posted}) + "\n")
            sys.stdout.flush()


def _collective(dist: Any, host: int, bytes_HH: list[list[int]]) -> dict[str, Any]:
    import torch

    sends = bytes_HH[host]
    receives = [row[host] for row in bytes_HH]
    given, taken = (torch.zeros(sum(sizes), dtype=torch.uint8) for sizes in (sends, receives))
    dist.barrier()
    begin = time.monotonic()
    dist.all_to_all_single(taken, given, receives, sends)
    return {"begin": begin, "end": time.monotonic()}


def _posted(dist: Any, host: int, bytes_HH: list[list[int]]) -> dict[str, Any]:
    """All receives and sends posted at once: full duplex, and each message's end is known."""
    import torch

    peers = [peer for peer in range(len(bytes_HH)) if peer != host]
    receives = {peer: torch.zeros(bytes_HH[peer][host], dtype=torch.uint8) for peer in peers if bytes_HH[peer][host]}
    sends = {peer: torch.zeros(bytes_HH[host][peer], dtype=torch.uint8) for peer in peers if bytes_HH[host][peer]}
    ends: list[tuple[int, float]] = []

    def wait(peer: int, work: Any) -> None:
        work.wait()
        ends.append((peer, time.monotonic()))

    dist.barrier()
    begin = time.monotonic()
    works = {peer: dist.irecv(buffer, peer) for peer, buffer in receives.items()}
    sending = [dist.isend(buffer, peer) for peer, buffer in sends.items()]
    threads = [threading.Thread(target=wait, args=item) for item in works.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for work in sending:
        work.wait()
    return {"begin": begin, "ends": ends}


def _flows(rows: Sequence[dict[str, Any]]) -> dict[tuple[int, int], float]:
    begin = min(row["begin"] for row in rows)
    return {(source, target): end - begin for target, row in enumerate(rows) for source, end in row["ends"]}


def _limit(megabits: float) -> list[str]:
    return ["rate", f"{megabits}mbit", "burst", str(BURST_BYTES), "latency", f"{QUEUE_MILLISECONDS}ms"]


def _inside(namespace: str, *command: str) -> None:
    _run("ip", "netns", "exec", namespace, *command)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
