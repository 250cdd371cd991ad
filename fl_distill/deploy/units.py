"""systemd units and a Compose file: each process may do what it needs and no more."""

import getpass
import os
import sys
from pathlib import Path
from string import Template

_UNIT = Template("""\
# Install: cp $path /etc/systemd/system/$unit && systemctl daemon-reload && systemctl enable --now $unit
[Unit]
Description=$description
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=$command
User=$user
WorkingDirectory=$folder
Environment="HOME=$folder"
Restart=on-failure
RestartSec=$again
TimeoutStopSec=30
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths="$folder"
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
$more
[Install]
WantedBy=multi-user.target
""")

_COMPOSE = Template("""\
# SuperLink and proxy in containers: `docker compose up -d` in this folder, as the user who owns it.
# The proxy shares the SuperLink's network, so the SuperLink listens on that network's loopback only.
services:
  superlink:
    build:
      dockerfile_inline: |
        FROM python:$python-slim
        RUN pip install --no-cache-dir fl-distill==$version
    command: [fl-distill, federation, start, /federation]
    user: "$uid:$gid"
    environment: {HOME: /federation}
    volumes: [".:/federation"]
    ports: ["$port:$port"]
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    init: true
    restart: unless-stopped
  proxy:
    image: nginx:stable
    command: [nginx, -e, stderr, -p, /proxy, -c, nginx.conf, -g, "daemon off;"]
    user: "$uid:$gid"
    network_mode: "service:superlink"
    depends_on: [superlink]
    volumes:
      - ./nginx.conf:/proxy/nginx.conf:ro
      - ./ca.pem:/proxy/ca.pem:ro
      - ./server.pem:/proxy/server.pem:ro
      - ./server.key:/proxy/server.key:ro
      - ./nginx:/proxy/nginx
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
""")


def superlink(folder: Path, name: str) -> str:
    """The unit of a federation's SuperLink."""
    command = f"{_us()} federation start {_quoted(folder)}"
    return _unit(folder, "superlink.service", f"Flower SuperLink of {name}", command, 5, "PrivateDevices=yes\n")


def proxy(folder: Path, name: str) -> str:
    """The unit of the nginx in front of it; below port 1024 it needs one capability, which is written beside it."""
    command = f"/usr/sbin/nginx -e stderr -p {_quoted(folder)} -c nginx.conf -g 'daemon off;'"
    low = "PrivateDevices=yes\n# For a port below 1024 write CAP_NET_BIND_SERVICE here and in CapabilityBoundingSet:\n"
    return _unit(folder, "proxy.service", f"nginx before {name}", command, 5, f"{low}AmbientCapabilities=\n")


def supernode(folder: Path, name: str) -> str:
    """The unit of a site's process; it reads data anywhere but writes in its folder only, and may use a GPU."""
    command = f"{_us()} site start {_quoted(folder)}"
    # After a crash the SuperLink holds the site for online until two heartbeats of 30 s are missed.
    return _unit(folder, "supernode.service", f"fl-distill site {name}", command, 20, "")


def compose(port: int) -> str:
    """SuperLink and nginx for Docker Compose."""
    from .. import __version__

    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return _COMPOSE.substitute(port=port, version=__version__, python=python, uid=os.getuid(), gid=os.getgid())


def _unit(folder: Path, unit: str, description: str, command: str, again: int, more: str) -> str:
    return _UNIT.substitute(
        path=_quoted(folder / unit),
        unit=unit,
        description=description,
        command=command,
        user=getpass.getuser(),
        folder=str(folder).replace("%", "%%"),
        again=again,
        more=more,
    )


def _us() -> str:
    script = Path(sys.executable).parent / "fl-distill"
    return _quoted(script) if script.is_file() else f"{_quoted(Path(sys.executable))} -m fl_distill.cli"


def _quoted(path: Path) -> str:
    text = str(path).replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if " " in text else text
