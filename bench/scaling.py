"""How a merge's throughput grows with its nodes: network namespaces with capped links, a web server for each of them.

    make bench-scaling          as root, with nginx on the PATH

Every node reads the models, by ranges, from an nginx of its own through a link of 400 Mbit/s, so that the link is the
limit and not the processors that all nodes share; the output goes to the file system that they share. Time is taken
from the first tile's start to the last tile's journal entry: starting Ray and flushing the disk do not scale.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.families import Family, benchmark_family
from bench.net_nodes import BESIDE, NetNodes, net_nodes, refusal

NODES = (1, 2, 4)
WANTED = {1: 1.0, 2: 1.9, 4: 3.6}
LINK_MBIT = 400
BUCKET = "models"
_FIRST_PORT = 9000
_LOOK_S = 0.02
_COMMAND = (sys.executable, "-c", "from cluster.entry import run; run()")
_NGINX = """
daemon off;
user root;
pid {place}/pid;
error_log {place}/errors;
worker_processes 1;
events {{}}
http {{
  access_log off;
  sendfile on;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  server {{
    listen {address};
    root {root};
    # it cannot list, as an account of S3 that may only read
    if ($args ~ "list-type") {{ return 403 "<Error><Code>AccessDenied</Code></Error>"; }}
  }}
}}
"""


@contextmanager
def web_servers(nodes: NetNodes, family: Family, place: Path) -> Iterator[None]:
    """An nginx for the head and for every node, all with the same models."""
    (place / BUCKET).mkdir()
    for model in family.models:
        (place / BUCKET / model.name).symlink_to(model)
    nginx = shutil.which("nginx")
    servers = []
    try:
        for node in range(max(NODES) + 1):
            own = place / f"nginx{node}"
            own.mkdir()
            text = _NGINX.format(place=own, address=f"{BESIDE}:{_FIRST_PORT + node}", root=place)
            (own / "nginx.conf").write_text(text)
            servers.append(
                nodes.beside(str(nginx), "-p", str(own), "-c", str(own / "nginx.conf"), "-e", f"{own}/errors")
            )
        while not all((place / f"nginx{node}" / "pid").exists() for node in range(len(servers))):
            if any(server.poll() is not None for server in servers):
                sys.exit("bench-scaling: nginx does not start")
            time.sleep(_LOOK_S)
        yield
    finally:
        for server in servers:
            server.terminate()
            server.wait()


def environment_of(node: int) -> dict[str, str]:
    """What leads a node to its own server."""
    keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_REGION": "us-east-1"}
    return keys | {"AWS_ENDPOINT_URL": f"http://{BESIDE}:{_FIRST_PORT + node}"}


def seconds(nodes: NetNodes, workers: int, place: Path) -> float:
    """How long the tiles take with so many workers."""
    out, audit = place / "OUT", place / "audit"
    audit.unlink(missing_ok=True)
    flags = ["--address", nodes.address, "--workers", str(workers), "--quiet"]
    environment = environment_of(0) | {"MERGEFLEET_AUDIT": str(audit)}
    merge = nodes.popen(0, *_COMMAND, "merge", str(place / "recipe.yml"), str(out), *flags, environment=environment)
    journal, began, ended, size = place / "OUT.partial" / "journal", 0.0, 0.0, 0
    while merge.poll() is None:
        time.sleep(_LOOK_S)
        now = time.monotonic()
        if not began and audit.exists():
            began = now
        with_size = journal.stat().st_size if journal.exists() else size
        if with_size > size:
            size, ended = with_size, now
    _, said = merge.communicate()
    if merge.returncode:
        sys.exit(said)
    shutil.rmtree(out)
    return ended - began


def main() -> None:
    why_not = refusal() or (None if shutil.which("nginx") else "nginx is not installed")
    if why_not:
        sys.exit(f"bench-scaling: {why_not}.")
    family = benchmark_family(sys.argv[1] if len(sys.argv) > 1 else "1.1B")
    one, two = family.tunes
    nbytes = sum(path.stat().st_size for model in family.tunes for path in model.glob("*.safetensors"))
    environments = {node: environment_of(node) for node in range(max(NODES) + 1)}
    with tempfile.TemporaryDirectory() as directory, net_nodes(max(NODES), environments) as nodes:
        place = Path(directory)
        sources = "".join(f"  - {{model: s3://{BUCKET}/{model.name}}}\n" for model in (one, two))
        (place / "recipe.yml").write_text(f"merge_method: linear\nmodels:\n{sources}parameters: {{weight: 0.5}}\n")
        for node in range(1, max(NODES) + 1):
            nodes.limit(node, mbit=LINK_MBIT)
        with web_servers(nodes, family, place):
            print("| nodes | seconds | read, MB/s | of the links | against one node |\n|---|---|---|---|---|")
            first = 0.0
            for count in NODES:
                took = seconds(nodes, count, place)
                first = first or took
                rate, links = nbytes / took / 1e6, count * LINK_MBIT / 8
                print(f"| {count} | {took:.1f} | {rate:.0f} | {rate / links:.0%} | {first / took:.2f}× |", flush=True)
                if first / took < WANTED[count]:
                    print(f"below {WANTED[count]}×", file=sys.stderr)


if __name__ == "__main__":
    main()
