"""A Slurm cluster of one node on this machine, in a folder of its own: Debian's slurmctld, slurmd and munge, without accounting.

    python tests/slurm.py FOLDER COMMAND ...     runs a command while the cluster is up

It wants `apt-get install slurmctld slurmd slurm-client munge` and root, as munge refuses keys of other users. The jobs of Snakemake look for the
configuration in Debian's place alone, so links lie there while the cluster is up; nothing else outside of FOLDER is changed."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
DEVICES = ("null", "zero", "full", "random")     # files that stand for GPUs, as Slurm wants a device each
PLACES = tuple(Path("/", "etc", "slurm", name) for name in ("slurm.conf", "gres.conf"))
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser={user}
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
MinJobAge=7200
SlurmdParameters=config_overrides
MailProg=/bin/true
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=gpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    "Programs that are not there, and a cluster's configuration that is."
    return [name for name in PROGRAMS if not shutil.which(name)] + [str(path) for path in PLACES if os.path.lexists(path)]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _write(folder: Path, gpus: int) -> None:
    for name in ("state", "spool"): (folder / name).mkdir()
    folder.chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    (folder / "gres.conf").write_text("".join(f"Name=gpu File=/dev/{name}\n" for name in DEVICES[:gpus]))
    facts = {"host": socket.gethostname().split(".")[0], "controller": _free_port(), "node": _free_port(), "folder": folder,
             "user": os.environ.get("USER") or "root", "gpus": gpus}
    (folder / "slurm.conf").write_text(CONF.format(**facts))


@contextmanager
def cluster(folder: Path, gpus: int = 2) -> Iterator[dict[str, str]]:
    """A running cluster; the environment that its commands need.

    Its GPUs are numbers that Slurm counts (at most four), as are its memory and cores."""
    folder = Path(folder).resolve()
    folder.mkdir(parents=True)
    _write(folder, gpus)
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    munge = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key", f"--log-file={folder}/munge.log",
             f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed"]
    started: list[subprocess.Popen] = []
    def start(*command: str) -> None:
        with open(folder / f"{Path(command[0]).name}.out", "wb") as out: started.append(subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True))
    for path in PLACES:
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(folder / path.name)
    try:
        start(*munge)
        _wait(lambda: (folder / "munge.socket").exists(), folder)
        start("slurmctld", "-D", "-c", "-f", str(folder / "slurm.conf"))
        start("slurmd", "-D", "-f", str(folder / "slurm.conf"))
        _wait(lambda: "idle" in subprocess.run(["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True).stdout, folder)
        yield env
    finally:
        subprocess.run(["scancel", "--state=PENDING"], env=env, capture_output=True)
        subprocess.run(["scancel", "--state=RUNNING"], env=env, capture_output=True)
        for path in PLACES: path.unlink()
        for process in reversed(started): process.terminate()
        for process in reversed(started):
            try: process.wait(timeout=20)
            except subprocess.TimeoutExpired: process.kill()


def _wait(ready, folder: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until:
            logs = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in [*folder.glob("*.log"), *folder.glob("*.out")])
            raise RuntimeError(f"the cluster did not start:\n{logs}")
        time.sleep(.2)


def _stop(number: int, _) -> None:
    "End in order, also when the signal comes twice."
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    if missing(): sys.exit(f"missing or in the way: {', '.join(missing())}. Run apt-get install slurmctld slurmd slurm-client munge.")
    signal.signal(signal.SIGTERM, _stop)
    with cluster(Path(sys.argv[1])) as environment: sys.exit(subprocess.run(sys.argv[2:], env=environment).returncode)
