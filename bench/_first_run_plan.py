"""The steps of ascend_first_run.py, in rising order: what each runs, how long it may take, and what it has to show.

A step's check reads what was printed, or what lies in the steps' own directories, and returns what it found; a failure
is an AssertionError that says what is wrong.
"""

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REFERENCE = HERE.parent / "tests" / "reference" / "tiny_gqa"
TRAIN = ["+experiment=tiny", "train.prompts=[]", "train.max_steps=8", "train.save_every=4", "optim.lr=1e-2"]
# Of an eval loss in bf16 beside one in fp32, nats a token. In fp16, whose steps are 8 times finer, the CPU's was 0.0013
# off after these steps (2026-11-28); training that changes no weight would be 0.7 off.
LOSS_BOUND = 0.05
LOSSES = re.compile(r"^eval loss +(\S+) -> (\S+) nats", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """
    Attributes:
        limit: seconds, of which most may be compiling.
        check: what is made of the text it printed.
        cards: that it takes.
        needs: the step that has to be through, right or wrong, before it is begun.
        before: what is done first.
    """

    name: str
    about: str
    command: list[str]
    limit: int
    check: Callable[[str], str]
    cards: int = 1
    needs: str | None = None
    before: Callable[[], object] = lambda: None


def plan(device: str, room: Path) -> list[Step]:
    """
    Args:
        device: "ascend", or "cpu" to try the steps where there is no NPU.
        room: the directory in which steps leave what they make, one directory each.
    """
    exact = ["runtime.deterministic=true"] if device == "ascend" else []
    on = [f"runtime={device}"]

    def trains(name: str, about: str, *overrides: str, limit: int = 600, cards: int = 1) -> Step:
        hangs = f"hydra.launcher.heartbeat={limit // 2}"  # told with the ranks' Python stacks, before the limit ends it
        command = _ours(room, name, [*TRAIN, *on, *overrides, hangs])
        return Step(name, about, command, limit, lambda text: _near(text, room), cards, needs="reference")

    return [
        Step("own_check", "mindspore.run_check()", _python(OWN_CHECK.format(_target(device))), 300, _successful),
        Step("matmul", "one product, beside numpy's", _numbers("matmul", device), 300, _verdict),
        Step(
            "parity", "logits of tests/reference/tiny_gqa, beside PyTorch's", _numbers("parity", device), 600, _verdict
        ),
        Step("reference", "8 steps on this machine's CPU, fp32", _ours(room, "reference", TRAIN), 300, _losses_found),
        trains("train", "the same on one card", *exact),
        Step(
            "resume",
            "the same from step 4 on: the weights and moments of step 8, bit by bit",
            _ours(room, "resume", [*TRAIN, *on, *exact, "train.resume=auto"]),
            600,
            lambda text: _same_bits(room),
            needs="train",
            before=lambda: _stop(room),
        ),
        trains("dp2", "two replicas", "parallel=dp2", limit=900, cards=2),
        trains("tp2", "matrices in two halves", "parallel=tp2", limit=900, cards=2),
        Step("lora", "LoRA", _ours(room, "lora", [*TRAIN, *on, "adapter=lora"]), 600, _falls, needs="reference"),
        Step(
            "predict",
            "an answer from the weights that were trained",
            _predicts(room, on),
            600,
            _verdict,
            needs="train",
        ),
    ]


OWN_CHECK = "import mindspore; mindspore.set_device('{}'); mindspore.run_check()"


def _target(device: str) -> str:
    return {"ascend": "Ascend", "cpu": "CPU"}[device]


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _numbers(name: str, device: str) -> list[str]:
    return [sys.executable, str(HERE / "_first_run_numbers.py"), name, device, str(REFERENCE)]


def _ours(room: Path, name: str, overrides: list[str]) -> list[str]:
    places = [f"output_dir={room / name}", f"hydra.sweep.dir={room / name}.run", "tracking=off"]
    return [sys.executable, "-m", "dscoder_exp", *overrides, *places]


def _predicts(room: Path, on: list[str]) -> list[str]:
    weights = room / "train" / "checkpoints" / "step-000008"
    asked = ["task=predict", f"model.path={weights}", "predict.prompt=Add two numbers.", "predict.max_new_tokens=8"]
    return _ours(room, "predict", [*asked, *on])


def _successful(text: str) -> str:
    """MindSpore's check ends with 0 where it fails, too."""
    assert "successfully!" in text, "mindspore.run_check() didn't say that it was successful"
    return "successful"


def _verdict(text: str) -> str:
    """What it printed last, a bound beside what was found, or a speed; its exit code has said whether it held."""
    return text.strip().splitlines()[-1]


def _losses(text: str) -> tuple[float, float]:
    found = LOSSES.search(text)
    assert found, "it printed no eval loss"
    return float(found[1]), float(found[2])


def _losses_found(text: str) -> str:
    before, after = _losses(text)
    assert after < before - 5 * LOSS_BOUND, f"the eval loss went from {before} to {after} on the CPU"
    return f"eval loss {before} -> {after}"


def _near(text: str, room: Path) -> str:
    """Both losses within bf16's bound of the CPU's: forward, backward, the optimizer, and that weights stay changed."""
    found, expected = _losses(text), _losses((room / "reference.log").read_text())
    told = f"eval loss {found[0]} -> {found[1]}, in fp32 on the CPU {expected[0]} -> {expected[1]}"
    assert all(abs(mine - other) <= LOSS_BOUND for mine, other in zip(found, expected, strict=True)), told
    return told


def _falls(text: str) -> str:
    before, after = _losses(text)
    assert after < before, f"the eval loss went from {before} to {after}"
    return f"eval loss {before} -> {after}"


def _same_bits(room: Path) -> str:
    """The run that went on and the one that didn't stop, after their last step."""
    one, other = (room / name / "checkpoints" / "step-000008" for name in ("train", "resume"))
    files = sorted(one.glob("*.safetensors"))
    assert len(files) == 2, f"{one} holds {len(files)} files of tensors"
    differ = [file.name for file in files if file.read_bytes() != (other / file.name).read_bytes()]
    assert not differ, f"{' and '.join(differ)} differ between {one} and {other}"
    return "the same bits in " + " and ".join(file.name for file in files)


def _stop(room: Path) -> None:
    """What `resume` finds: the run that `train` was, as if it had been killed after its fourth step."""
    made = room / "resume" / "checkpoints"
    shutil.copytree(room / "train" / "checkpoints" / "step-000004", made / "step-000004")
    (made / "last").symlink_to("step-000004")
