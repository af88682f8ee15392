"""Count instructions and estimate cycles of inner loops on ARM, without the processor.

    tests/arm/run harness            # builds the kernels with Debian's cross compiler
    python benchmarks/arm_static.py  # needs llvm-mca: apt-get install llvm-19

It disassembles a built kernel, takes the innermost loop that does the work, and lets llvm-mca
simulate it on the scheduling model of each processor. This is static analysis: caches, memory and
branches cost nothing. A model may be that of another processor; the table names it. What runs
outside of the loop, once per several hundred inputs, is left out.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The Neoverse N1 also stands for the Cortex-A76, whose server form it is: LLVM has no model of the
# latter, and takes that of the Cortex-A57.
PROCESSORS = ("cortex-a72", "neoverse-n1", "neoverse-v2", "apple-m1")


@dataclass(frozen=True)
class Kernel:
    """The loop that is densest in `opcode`, of functions whose mangled name has `function`.

    work: multiply-adds of an iteration. least: how often the loop has `opcode`, at least.
    """

    name: str
    object: str
    function: str
    opcode: str
    work: int
    least: int = 1


# In mangled names of functions of batch/tables_neon.cpp; {}: type and registers of an entry.
TABLES = "12TableProductINS0_7EntriesINS0_{}EEENS0_9N4S1RanksEE"

KERNELS = (
    Kernel("n4s1, int8, one vector", "n4s1_i8_neon", "lookup", "tbl", 32 * 24),
    Kernel("n4s1, float32, one vector", "n4s1_f32_neon", "6lookup", "tbl", 32 * 24),
    Kernel("w16, int8, one vector", "w16_neon", "9lookup_i8", "tbl", 32 * 9),
    Kernel("dense int8, one vector", "dense_neon", "2I8", "sadalp", 4 * 16 * 4),
    Kernel("panels, sdot, 4 vectors", "panels_neon_dotprod", "multiply", "sdot", 16 * 16),
    Kernel("panels, smmla, 4 vectors", "panels_neon_i8mm", "multiply", "smmla", 16 * 32),
    *(
        Kernel(name, "tables_neon", TABLES.format(entries), "ubfx", work, least)
        for name, entries, work, least in (
            ("n4s1, float32, 8 vectors", "7Float32ELi2", 8 * 48, 10),
            ("n4s1, float32, 16 vectors", "7Float32ELi4", 16 * 24, 5),
            ("n4s1, int8, 16 vectors", "5Int16ELi2", 16 * 48, 10),
            ("n4s1, int8, 32 vectors", "5Int16ELi4", 32 * 24, 5),
        )
    ),
)


@dataclass(frozen=True)
class Instruction:
    """A line of a disassembly."""

    address: int
    opcode: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        if not re.fullmatch(r"b(\.\w+)?|cbn?z|tbn?z", self.opcode):
            return None
        found = re.search(r"\b([0-9a-f]+) <", self.operands)
        return int(found[1], 16) if found else None


def functions(path: Path) -> dict[str, list[Instruction]]:
    """Disassemble an object file."""
    command = ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if label := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            found[label[1]] = code = []
        elif match := re.match(r"\s+([0-9a-f]+):\t(\S+)\s*([^/]*)", line):
            code.append(Instruction(int(match[1], 16), match[2], match[3].strip()))
    return found


def innermost_loops(code: list[Instruction]) -> list[list[Instruction]]:
    at = {instruction.address: i for i, instruction in enumerate(code)}
    loops = [
        (at[i.target], at[i.address])
        for i in code
        if i.target is not None and i.target in at and i.target < i.address
    ]
    return [
        code[begin : end + 1]
        for begin, end in loops
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in loops)
    ]


def working_loop(path: Path, function: str, opcode: str, least: int = 1) -> list[Instruction]:
    """Return the innermost loop that is densest in an instruction, which it has `least` times."""
    loops = [
        loop
        for name, code in functions(path).items()
        if function in name
        for loop in innermost_loops(code)
    ]
    found = [(sum(i.opcode == opcode for i in loop), loop) for loop in loops]
    return max((p for p in found if p[0] >= least), key=lambda p: p[0] / len(p[1]))[1]


def simulate(loop: list[Instruction], processor: str) -> tuple[float, str]:
    """Return cycles of an iteration, and the prefix of the model's resources."""
    lines = [f"{i.opcode} {i.operands}" for i in loop if i.target is None and i.opcode != "nop"]
    done = subprocess.run(
        ["llvm-mca-19", "-mtriple=aarch64", f"-mcpu={processor}", "-mattr=+dotprod,+i8mm",
         "-iterations=200"],
        input="\n".join(lines), check=True, capture_output=True, text=True,
    )  # fmt: skip
    cycles = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    resource = re.search(r"^\[0(?:\.0)?\]\s+- (\w+?)Unit", done.stdout, re.MULTILINE)
    assert cycles, done.stdout
    assert resource, done.stdout
    return int(cycles[1]) / 200, resource[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--objects", type=Path, default=ROOT / "build/arm/harness", metavar="FOLDER"
    )
    parser.add_argument(
        "--also", nargs=3, metavar=("OBJECT", "OPCODE", "WORK"), action="append", default=[],
        help="another object file; the instruction that finds its loop; multiply-adds of it",
    )  # fmt: skip
    arguments = parser.parse_args()
    for tool in ("llvm-mca-19", "aarch64-linux-gnu-objdump"):
        if not shutil.which(tool):
            sys.exit(f"arm_static: found no {tool}; apt-get install llvm-19 g++-aarch64-linux-gnu")
    rows = []
    for kernel in KERNELS:
        (path,) = arguments.objects.rglob(f"{kernel.object}.cpp.o")
        loop = working_loop(path, kernel.function, kernel.opcode, kernel.least)
        rows.append((kernel.name, loop, kernel.work))
    for path, opcode, work in arguments.also:
        rows.append((Path(path).stem, working_loop(Path(path), "", opcode), int(work)))
    models = [f"{cpu} ({simulate(rows[0][1], cpu)[1]} model)" for cpu in PROCESSORS]
    print("| loop | instructions | " + " | ".join(models) + " |")
    print("|---|---|" + "---|" * len(models))
    for name, loop, work in rows:
        cycles = [simulate(loop, cpu)[0] / work for cpu in PROCESSORS]
        numbers = [len(loop) / work, *cycles]
        print(f"| {name} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")


if __name__ == "__main__":
    main()
