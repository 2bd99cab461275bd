"""Broken input that atheris leads into code which no earlier input has reached, for one kind of tests/fuzz.py.

    python tests/fuzz_guided.py exports 10000     needs atheris (pip install atheris)
"""
import os
import sys
from collections import Counter

import atheris

with atheris.instrument_imports(include=["pointwssis"]): import fuzz

kind, inputs = sys.argv[1], int(sys.argv[2])
seen: Counter = Counter()
test = fuzz.test_of(kind, inputs, seen).hypothesis.fuzz_one_input


def one(data: bytes) -> None:
    test(data)
    if seen.total() >= inputs:
        print(f"{kind}: {seen['worked']:,} worked, {seen['refused']:,} refused, none crashed or hung", flush=True)
        os._exit(0)   # libFuzzer takes an ordinary exit for a crash


atheris.Setup([sys.argv[0], "-max_len=4000", "-len_control=0", "-verbosity=0"], one)
atheris.Fuzz()
