"""`pykvm boot --device`: a device of the user's own, and one clear answer to each thing that can be wrong with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pykvm.cli.overtime import GRACE_S
from tests.support import SLOWNESS, pykvm

kvm = pytest.mark.kvm

ROOT = Path(__file__).parents[2]
DICE = ROOT / "docs" / "examples" / "dice.py"
GUEST = ROOT / "guests" / "dice.bin"
FAULTY = """\
import pykvm


class Faulty(pykvm.Device):
    name = "faulty"
    registers = (pykvm.Register("DATA", 0),)

    def write_DATA(self, value):
        raise ValueError(f"no {value}")

    def read_DATA(self):
        return helper({})


class Late(Faulty):
    def attached(self):
        raise ValueError("not here")


class Posted(Faulty):
    def refresh(self):
        self.fast.post(0, 1)


class Quits(Faulty):
    def write_DATA(self, value):
        raise GeneratorExit


class Hangs(Faulty):
    def write_DATA(self, value):
        while True:
            pass


class Sleeps(Faulty):
    def write_DATA(self, value):
        __import__("time").sleep(1e6)


class Writes(Faulty):
    def write_DATA(self, value):
        self.memory.write(0x8000, bytes([value]))


def helper(found):
    return found["it"]
"""


def boot(*options: object, image: Path = GUEST) -> subprocess.CompletedProcess[bytes]:
    return pykvm("boot", image, "--timeout=60", *options)


def snippet(folder: Path, code: str) -> Path:
    path = folder / "image.bin"
    path.write_bytes(bytes.fromhex(code))
    return path


def faulty(folder: Path, code: str, cls: str, *options: object) -> subprocess.CompletedProcess[bytes]:
    """Boot `code` with a device at port 0x50 that raises."""
    (folder / "faulty.py").write_text(FAULTY)
    return boot(f"--device={folder}/faulty.py:{cls}@port=0x50", *options, image=snippet(folder, code))


@kvm
def test_a_device_answers_and_is_named_in_the_trace() -> None:
    done = boot("--device", f"{DICE}:Dice@port=0x500,irq=5", "--trace")
    text = done.stderr.decode()
    assert done.returncode == 0
    assert "3512463464\n" in text
    assert "dice.ROLL <- 0x00" in text
    assert "dice.STATUS -> 0x01  (READY)" in text


@kvm
def test_options_and_a_name(tmp_path: Path) -> None:
    done = boot("--device", f"{DICE}:Dice@port=0x500,name=die,seed=7", "--record", tmp_path / "trace")
    digits = done.stderr.decode().partition("\n")[0]
    assert re.fullmatch("[1-6]{10}", digits)
    assert digits != "3512463464"
    assert b"die.ROLL <- 0x00" in pykvm("trace", "show", tmp_path / "trace").stdout


@kvm
@pytest.mark.parametrize(("irq", "status"), [(5, 7), (3, 124)])
def test_its_interrupt_reaches_the_guest(tmp_path: Path, irq: int, status: int) -> None:
    # xor ax, ax; mov ds, ax; mov [0x25 * 4], handler, 0; 8259: base 0x20, all masked but 5; sti; ROLL; hlt
    code = "31 c0 8e d8 c7 06 94 00 {} 7c c7 06 96 00 00 00 b0 11 e6 20 b0 20 e6 21 b0 04 e6 21 b0 01 e6 21 b0 df e6 21"
    code += "fb ba 01 05 ee f4 eb fd"
    handler = "b0 07 e6 f4 f4"  # mov al, 7; out 0xf4, al; hlt
    image = snippet(tmp_path, code.format(f"{len(bytes.fromhex(code.format('00'))):02x}") + handler)
    done = pykvm("boot", image, f"--device={DICE}:Dice@port=0x500,irq={irq}", "--timeout=2")
    assert done.returncode == status, done.stderr.decode()


@kvm
def test_two_devices_of_a_file(tmp_path: Path) -> None:
    # mov dx, 0x620; in al, dx; out 0xf4, al: reads SIDES of the second
    image = snippet(tmp_path, "ba 20 06 ec e6 f4")
    both = (f"--device={DICE}:Dice@port=0x500", f"--device={DICE}:Dice@port=0x620,name=second")
    assert boot(*both, image=image).returncode == 6


@kvm
def test_a_device_in_memory(tmp_path: Path) -> None:
    # mov al, [0xd0000000]; out 0xf4, al
    done = pykvm(
        "boot",
        snippet(tmp_path, "a0 00 00 00 d0 e6 f4"),
        "--mode=protected",
        f"--device={DICE}:Dice@address=0xd0000000",
        "--timeout=60",
    )
    assert done.returncode == 6


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("dice.py", "must be FILE.py:CLASS"),
        (f"{DICE}:Dice@irq=5", "give one of port= and address="),
        (f"{DICE}:Dice@port=1,address=1", "give one of port= and address="),
        (f"{DICE}:Dice@port=1,seed", "'seed' must be KEY=VALUE"),
        ("none.py:Dice@port=1", "No such file"),
        ("no_such_module:Dice@port=1", "No module named 'no_such_module'"),
        (f"{DICE}:Cards@port=1", "has no such class; devices in"),
        (f"{DICE}:pykvm@port=1", "Dice"),
        (f"{DICE}:Dice@port=1,colour=red", "raised TypeError"),
        ("{folder}/bad.py:Dice@port=1", "NameError: name 'foo' is not defined ({folder}/bad.py, line 2)"),
    ],
)
def test_errors_that_need_no_machine(tmp_path: Path, device: str, words: str) -> None:
    (tmp_path / "bad.py").write_text("import pykvm\nfoo\n")
    done = boot("--device", device.replace("{folder}", str(tmp_path)))
    assert_one_line(done, words.replace("{folder}", str(tmp_path)))


@kvm
@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("Faulty@port=0x3f8", "overlaps 'com1'"),
        ("Faulty@port=0x10000", "must lie within 0 to 0xffff"),
        ("Faulty@address=0x1000", "is RAM"),
        ("Faulty@port=0x50,name=com1", "the name is taken"),
        ("Faulty@port=0x50,irq=24", "irq 24"),
        ("Late@port=0x50", "when it was attached it raised ValueError: not here"),
    ],
)
def test_errors_of_the_place(tmp_path: Path, rest: str, words: str) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    assert_one_line(boot("--device", f"{tmp_path}/faulty.py:{rest}"), words)


def assert_one_line(done: subprocess.CompletedProcess[bytes], words: str) -> None:
    text = done.stderr.decode()
    assert done.returncode == 64, text
    assert done.stdout == b""
    assert text.startswith("pykvm"), text
    assert text.count("\n") == 1, text
    assert words in text


def test_the_devices_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY)
    for option in ("--record", "--serial"):
        done = boot(f"--device={path}:Faulty@port=0x50", option, path)
        assert_one_line(done, "is named twice")
    assert path.read_text() == FAULTY


# ---- a device that raises


@kvm
@pytest.mark.parametrize("trace", [(), ("--trace",)])
def test_a_write_that_raises(tmp_path: Path, trace: tuple[str, ...]) -> None:
    done = faulty(tmp_path, "b0 07 e6 50 f4", "Faulty", *trace)
    assert done.returncode == 70
    lines = done.stderr.decode().splitlines()
    assert re.fullmatch(r"pykvm: a device failed: faulty; 1 exit \(1 pio\) in \d+\.\d{3} s", lines[0])
    assert lines[1:3] == [
        "pykvm: device 'faulty' raised ValueError: no 7",
        "  at faulty.DATA <- 0x07 at real 0000:7c02 out 0x50, al",
    ]
    files = [line for line in lines if "File " in line]
    assert files == [f'    File "{tmp_path}/faulty.py", line 9, in write_DATA']
    assert '      raise ValueError(f"no {value}")' in lines
    assert any(line.startswith("     rax 00000007") for line in lines)
    assert any(line.startswith("  at RIP: ") for line in lines)


@kvm
def test_a_read_that_raises(tmp_path: Path) -> None:
    text = faulty(tmp_path, "e6 80 e4 50 f4", "Faulty").stderr.decode()
    assert "pykvm: device 'faulty' raised KeyError: 'it'\n  at faulty.DATA -> ? at real 0000:7c02 in al, 0x50\n" in text
    assert re.findall(r'File ".*", line \d+, in (\w+)', text) == ["read_DATA", "helper"]
    assert "post.CODE <- 0x00" in text


@kvm
def test_a_posted_write_that_raises(tmp_path: Path) -> None:
    text = faulty(tmp_path, "b0 07 e6 50 f4", "Posted").stderr.decode()
    assert "  at faulty.DATA <- 0x07 at real 0000:7c02 out 0x50, al; posted, the guest has gone on since\n" in text
    assert re.findall(r'File ".*", line \d+, in (\w+)', text) == ["write_DATA"]


@kvm
def test_quiet_leaves_the_error(tmp_path: Path) -> None:
    done = faulty(tmp_path, "b0 07 e6 50 f4", "Faulty", "--quiet")
    text = done.stderr.decode()
    assert done.returncode == 70
    assert text.startswith("pykvm: device 'faulty' raised ValueError: no 7\n  at ")
    assert text.endswith("  ValueError: no 7\n")
    assert "rax" not in text


@pytest.mark.parametrize(("cls", "options"), [("Hangs", ()), ("Sleeps", ("--trace",)), ("Hangs", ("--cpus=2",))])
@kvm
def test_a_time_limit_ends_a_device_that_does_not_return(tmp_path: Path, cls: str, options: tuple[str, ...]) -> None:
    result = faulty(tmp_path, "b0 07 e6 50", cls, f"--timeout={SLOWNESS}", *options)
    text = result.stderr.decode()
    assert result.returncode == 124, text
    assert "pykvm: timed out; 1 exit (1 pio)" in text
    assert f"pykvm: device 'faulty' raised Overtime: it had not returned {GRACE_S:g} s after the time limit\n" in text
    assert "  at faulty.DATA <- 0x07 at real 0000:7c02 out 0x50, al\n" in text
    assert "in write_DATA" in text
    assert text.count("  at RIP: ") == 1


@kvm
@pytest.mark.parametrize("options", [(), ("--trace",)])
def test_a_time_limit_ends_a_device_that_does_not_return_to_another_vcpu(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    # The first copies what follows its `jmp` to 0x8000 and sends INIT and SIPI; the others: mov al, 7; out 0x50, al
    code = "be33001000 bf00800000 b906000000 f3a4 810df000e0fe00010000 c7050003e0fe00450c00 c7050003e0fe08460c00"
    code += "f390 ebfc b007 e650 faf4"
    result = faulty(tmp_path, code, "Hangs", "--mode=protected", "--cpus=3", "--timeout=1", *options)
    text = result.stderr.decode()
    assert result.returncode == 124, text
    assert "pykvm: device 'faulty' raised Overtime: it had not returned" in text
    assert "  at faulty.DATA <- 0x07 at real 0800:0002 out 0x50, al\n" in text
    assert "in write_DATA" in text


@kvm
def test_a_process_that_was_stopped_past_its_time_limit_blames_no_device(tmp_path: Path) -> None:
    # mov al, 'A'; mov dx, 0x3f8; out dx, al; jmp to itself
    command = ["boot", str(snippet(tmp_path, "b0 41 ba f8 03 ee eb fe")), "--timeout=1"]
    child = subprocess.Popen(
        [sys.executable, "-m", "pykvm", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None
    assert child.stdout.read(1) == b"A"
    time.sleep(0.3)  # it is in the guest again
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(1 + GRACE_S)
    os.kill(child.pid, signal.SIGCONT)
    text = child.communicate(timeout=60)[1].decode()
    assert child.returncode == 124
    assert "pykvm: timed out" in text
    assert "raised" not in text


@kvm
def test_whatever_a_device_raises_is_told(tmp_path: Path) -> None:
    result = faulty(tmp_path, "b0 07 e6 50", "Quits")
    assert result.returncode == 70
    assert b"device 'faulty' raised GeneratorExit\n" in result.stderr


@kvm
def test_a_device_reaches_the_guests_memory(tmp_path: Path) -> None:
    # mov al, 7; out 0x50, al; mov al, [0x8000]; out 0xf4, al
    result = faulty(tmp_path, "b0 07 e6 50 a0 00 80 e6 f4", "Writes")
    assert result.returncode == 7, result.stderr
