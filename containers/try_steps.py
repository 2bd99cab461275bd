"""`python containers/try_steps.py ROOT [--file containers/Dockerfile]`: the steps of a Dockerfile,
one by one, in a folder that holds a Debian (as `debootstrap --variant=minbase bookworm ROOT`
makes one), where there is no container engine. Needs root, for chroot."""
from __future__ import annotations
import argparse
import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent.parent
KNOWN = ("FROM", "SHELL", "RUN", "USER", "WORKDIR", "COPY", "ENV", "EXPOSE", "ENTRYPOINT", "CMD")


def instructions(text: str) -> list[tuple[str, str]]:
    "Name and words of each instruction; ValueError for one that is not known."
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines).splitlines()
    pairs = [line.split(None, 1) for line in joined if line.strip()]
    for name, _ in pairs:
        if name not in KNOWN: raise ValueError(f"instruction {name} is not known")
    return [(name, words) for name, words in pairs]


def ignored(path: Path, patterns: list[str]) -> bool:
    "True for a path, relative to the repository, that .dockerignore leaves out."
    parts = [Path(*path.parts[:n]).as_posix() for n in range(1, len(path.parts) + 1)]
    return any(fnmatch.fnmatch(part, pattern) or pattern.startswith("**/")
               and fnmatch.fnmatch(part.rpartition("/")[2], pattern[3:])
               for part in parts for pattern in patterns)


def files_below(folder: Path, patterns: list[str]) -> list[Path]:
    "Files of a folder, relative to the repository; folders that are left out are not entered."
    inside = [path for path in sorted(folder.iterdir())
              if not ignored(path.relative_to(HERE), patterns)]
    return [name for path in inside for name in
            (files_below(path, patterns) if path.is_dir() else [path.relative_to(HERE)])]


def copied(words: str) -> list[Path]:
    "Files that a COPY instruction means, relative to the repository."
    sources = [HERE / word for word in shlex.split(words) if not word.startswith("--")][:-1]
    patterns = (HERE / ".dockerignore").read_text(encoding="utf-8").split()
    return [name for source in sources for name in
            (files_below(source, patterns) if source.is_dir() else [source.relative_to(HERE)])]


class Machine:
    "The state between two steps: user, folder and environment."
    def __init__(self, root: Path, certificate: Path | None = None):
        self.root, self.user, self.folder = root, "root", "/"
        self.env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        if certificate:
            (root / "etc/ssl").mkdir(exist_ok=True)
            shutil.copy(certificate, root / "etc/ssl/authority.crt")
            self.env |= dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE"), "/etc/ssl/authority.crt")

    def run(self, command: list[str]) -> None:
        "Run a command as the user, in the folder; CalledProcessError where it fails."
        home = "/root" if self.user == "root" else "/home/user"
        inside = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        known = [f"{k}={v}" for k, v in {**self.env, "HOME": home}.items()]
        switch = ([] if self.user == "root"
                  else ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"])
        subprocess.run(["chroot", self.root, "/usr/bin/env", "-i", *known, *switch,
                        "/bin/bash", "-c", inside], check=True)

    def copy(self, words: str) -> None:
        "Copy files into the folder; those in folders keep their place, as COPY . . does."
        plain = [word for word in shlex.split(words) if not word.startswith("--")]
        top = self.root / self.folder.lstrip("/")
        to = (top / plain[-1]).resolve()
        for name in copied(words):
            source = HERE / plain[0]
            place = (to if len(plain) == 2 and source.is_file() else
                     to / (HERE / name).relative_to(source if source.is_dir() else HERE))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(HERE / name, place)
            for made in (place, *place.parents):
                if made == top: break
                os.chown(made, 1000, 1000)

    def step(self, name: str, words: str) -> None:
        "One instruction."
        if name == "RUN": self.run(["/bin/bash", "-o", "pipefail", "-c", words])
        elif name == "USER": self.user = words
        elif name == "WORKDIR":
            self.folder = words
            (self.root / words.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY": self.copy(words)
        elif name == "ENV":
            pairs = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', words))
            self.env |= {k: v.strip('"').replace("$PATH", self.env["PATH"])
                         for k, v in pairs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--file", type=Path, default=HERE / "containers/Dockerfile")
    parser.add_argument("--certificate", type=Path,
                        help="authorities to trust, where a proxy signs with one of its own")
    args = parser.parse_args()
    machine = Machine(args.root.resolve(), args.certificate)
    for name, words in instructions(args.file.read_text(encoding="utf-8")):
        start = time.monotonic()
        machine.step(name, words)
        print(f"{name} {words[:70]}: {time.monotonic() - start:.0f} s", flush=True)
    machine.run(["containers/entry.sh", "--help"])
    machine.run(["containers/entry.sh", "lab", "--version"])


if __name__ == "__main__": sys.exit(main())
