"""PFLlib's own FedAvg on a job of the benchmark folder: its server, its clients, its loaders, one process.

    PYTHONPATH=../shared/bench/common:CLONE/system python scripts/bench/pfllib.py J1

`CLONE` is one of PFLlib; it needs h5py, matplotlib and scikit-learn. Only what the job says differs from what PFLlib
does by itself: the cohorts, the network, SGD with momentum that starts anew each round, how many steps, no batch
dropped, and the score, which is that of the server's model on the shared test set alone. The files that PFLlib reads
its data from are written once, under the temporary folder.
"""

import os
import sys
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fljobs
import numpy as np
import torch
from flcore.clients.clientavg import clientAVG
from flcore.servers.serveravg import FedAvg
from torch.utils.data import DataLoader
from utils.data_utils import read_client_data

NAME = sys.argv[1]
JOB = fljobs.JOBS[NAME]


class Client(clientAVG):
    def load_train_data(self) -> Iterable[Any]:
        loader = DataLoader(read_client_data(self.dataset, self.id), self.batch_size, shuffle=True)
        return islice(loader, JOB.max_steps) if JOB.max_steps else loader

    def train(self) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=fljobs.LR, momentum=fljobs.MOMENTUM)
        super().train()


class Server(FedAvg):
    clock: fljobs.Clock
    round = 0

    def set_clients(self, _: type) -> None:
        super().set_clients(Client)

    def select_clients(self) -> list[Client]:
        return [self.clients[site] for site in fljobs.sampled_clients(NAME, self.round + 1)]

    def evaluate(self) -> None:
        accuracy = fljobs.evaluate(self.global_model, JOB.model)[1]
        self.rs_test_acc.append(accuracy)
        if self.round:  # PFLlib scores what a round begins with
            self.clock.round_end(accuracy)
        self.round += 1


def data_folder() -> Path:
    """PFLlib's files: one of training rows and one of test rows for each site."""
    folder = Path(tempfile.gettempdir()) / "fl-distill-pfllib"
    where = folder / "dataset" / NAME
    for part in ("train", "test"):
        (where / part).mkdir(parents=True, exist_ok=True)
        for site in range(JOB.clients):
            file = where / part / f"{site}.npz"
            if not file.exists():
                x, y = fljobs.client_xy(NAME, site)
                rows = slice(None) if part == "train" else slice(1)
                np.savez(file, data=np.array({"x": x[rows].numpy(), "y": y[rows].numpy()}, dtype=object))
    (folder / "system").mkdir(exist_ok=True)
    return folder / "system"


def main() -> None:
    clock = fljobs.Clock()
    clock.mark("imports")
    torch.set_num_threads(1)
    os.chdir(data_folder())  # its paths are relative to where it is started
    off = (
        *("random_join_ratio", "time_select", "auto_break", "dlg_eval", "learning_rate_decay", "few_shot"),
        *("client_drop_rate", "train_slow_rate", "send_slow_rate", "num_new_clients", "fine_tuning_epoch_new"),
    )
    server = Server(
        SimpleNamespace(
            **dict.fromkeys(off, 0),
            device="cpu",
            dataset=NAME,
            num_classes=10,
            global_rounds=JOB.rounds - 1,  # it trains once more than it says
            local_epochs=JOB.epochs,
            batch_size=JOB.batch,
            local_learning_rate=fljobs.LR,
            learning_rate_decay_gamma=1.0,
            model=fljobs.make_model(JOB.model, 0),
            num_clients=JOB.clients,
            join_ratio=JOB.sampled / JOB.clients,
            algorithm="FedAvg",
            goal="bench",
            save_folder_name="items",
            top_cnt=100,
            time_threthold=10000,
            eval_gap=1,
            dlg_gap=100,
            batch_num_per_client=2,
        ),
        0,
    )
    server.clock = clock
    clock.mark("loop")
    server.train()
    server.evaluate()
    clock.report("pfllib", NAME)


if __name__ == "__main__":
    main()
