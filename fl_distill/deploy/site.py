"""A site's side: a folder with its key and its own settings, and the process that serves the federation."""

import sys
import time
from pathlib import Path

from ..errors import ConfigError, FlDistillError
from ..locks import is_locked
from ..programs import environment
from ..runtime.patience import growing
from . import certificates, keys, probe, processes, units
from .private import FOLDER, SECRET, attempt, exposed, missing, new_folder, write_new
from .settings import Site, address_faults, name_faults, read_site

STEADY_S = 60.0
"""A working process that lived for so long was a good one."""
STOPPED = 1
_YAML = """\
# This site's own settings; whoever runs the federation cannot change them. Made by `fl-distill site new`.
name: {name}
federation: {{address: "{address}", ca: ca.pem, key: key}}
model: mlp                   # this site's own architecture; the federation cannot change it
device: cpu
dataset: {{path: /path/to/data.csv}}    # settings of the data set that are this site's own
public_dataset: null         # the public file that all sites hold
test_dataset: null
folder: state                # where the site remembers models and residuals between rounds
limits: {{epochs: 10, rounds: 1000}}    # most that this site does for one request
policy:
  may_leave: [logits]        # any of weights, logits, class_means, features
  strategies: [fedmd, dsfl]
  min_examples: 20           # least number of training examples behind anything that leaves
  largest_message: 20MB
"""


def new(folder: Path, name: str, address: str, ca: Path) -> list[str]:
    """Make the folder of a site, with a key that never leaves it; returns what to tell the site."""
    faults = name_faults(name, "--name") + address_faults(address) + missing(ca)
    if not faults:
        faults = attempt(lambda: certificates.validity_faults(ca, "ask the operator for the present ca.pem"))
    if faults:
        raise ConfigError(faults)
    certificate = ca.read_bytes()
    private, public = keys.new_pair()
    with new_folder(folder) as made:
        write_new(made / "key", private, SECRET)
        write_new(made / "key.pub", public + b" " + name.encode() + b"\n")
        write_new(made / "ca.pem", certificate)
        write_new(made / "site.yaml", _YAML.format(name=name, address=address))
        write_new(made / "supernode.service", units.supernode(made, name))
        for inner in ("flwr", "state"):
            (made / inner).mkdir(FOLDER)
    return [
        f"send {made / 'key.pub'} to the operator of {address}; the file `key` beside it stays here",
        f"the operator should be shown this key: {keys.fingerprint(public)}",
        f"then edit {made / 'site.yaml'} and run: fl-distill site start {made}",
    ]


def start(folder: Path) -> int:
    """Serve the federation until told to stop; returns an exit code, or raises with the reason of a refusal."""
    site = read_site(folder)
    if faults := _faults(site):
        raise ConfigError(faults)
    if is_locked(site.online):
        raise FlDistillError(f"{site.name} is online already: another process of {site.folder} runs here")
    refused, waiting = probe.refusals(site.address, site.ca)
    if refused:
        raise ConfigError(refused)
    mark = keys.fingerprint(keys.public_of(site.key))
    print(f"{site.name} joins {site.address} with key {mark}; its settings: {site.settings}; Ctrl-C stops it")
    for sentence in waiting:
        print(f"{sentence}; the site keeps trying")
    sys.stdout.flush()
    site.home.mkdir(FOLDER, exist_ok=True)
    return _supervised(site)


def _supervised(site: Site) -> int:
    """Keep the working process alive; a crash costs the round that it was in."""
    pauses = growing()
    with processes.foreground() as front:
        while True:
            began = time.monotonic()
            code = front.run(node_command(site), environment(site.home))
            if front.told:
                return 0
            if code == processes.BARRED:  # it has said why
                return STOPPED
            if time.monotonic() - began > STEADY_S:
                pauses = growing()
            pause = next(pauses)
            print(f"the working process {_end(code)}: starting another in {pause:.0f} s", flush=True)
            if front.pause(pause):
                return 0


def _end(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def node_command(site: Site) -> list[str]:
    """The process that does the work: it is what may be killed, grow too large or crash."""
    return [sys.executable, "-m", "fl_distill.deploy.process", str(site.folder)]


def _faults(site: Site) -> list[str]:
    if absent := missing(site.ca, site.key):
        return [*absent, "such a folder is made by `fl-distill site new`"]
    faults = exposed(site.key)
    faults += attempt(lambda: certificates.validity_faults(site.ca, "ask the operator for the present ca.pem"))
    faults += attempt(lambda: keys.private_faults(site.key))
    return faults + attempt(lambda: _settings_faults(site))


def _settings_faults(site: Site) -> list[str]:
    from ..policy import absent, read

    return absent(read(site.settings))
