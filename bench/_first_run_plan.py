"""The steps of ascend_first_run.py, from small to large: command, time limit and check of each.

A step's check reads what the command printed or wrote. It returns a line for the summary, or raises an AssertionError
that says what is wrong.
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
# Largest difference of an eval loss in bf16 from one in fp32, nats per token. In fp16, which has 8 times bf16's
# resolution, the CPU's was 0.0013 off after these steps (2026-11-28); if no weight changed it would be 0.7 off.
LOSS_BOUND = 0.05
LOSSES = re.compile(r"^eval loss +(\S+) -> (\S+) nats", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """One step of the first run.

    limit: seconds, most of which may be compilation
    check: gets the command's output
    cards: number of NPUs
    needs: the step whose command must have exited with code 0 before; its check may have failed
    before: called before the command is started
    """

    name: str
    about: str
    command: list[str]
    limit: int
    check: Callable[[str], str]
    cards: int = 1
    needs: str | None = None
    before: Callable[[], object] = lambda: None


def plan(device: str, output: Path) -> list[Step]:
    """All steps, in the order in which they run.

    device: "ascend", or "cpu" to try the steps without an NPU
    output: directory in which each step gets a directory of its own
    """
    deterministic = ["runtime.deterministic=true"] if device == "ascend" else []
    runtime = [f"runtime={device}"]

    def training_step(name: str, about: str, *overrides: str, limit: int = 600, cards: int = 1) -> Step:
        heartbeat = f"hydra.launcher.heartbeat={limit // 2}"  # a hang then fails with the ranks' stacks before `limit`
        command = _command(output, name, [*TRAIN, *runtime, *overrides, heartbeat])
        return Step(name, about, command, limit, lambda text: _losses_agree(text, output), cards, needs="reference")

    return [
        Step("own_check", "mindspore.run_check()", _python(OWN_CHECK.format(_target(device))), 300, _successful),
        Step("matmul", "a matrix product, compared with numpy's", _numbers("matmul", device), 300, _last_line),
        Step(
            "parity",
            "logits of tests/reference/tiny_gqa, compared with PyTorch's",
            _numbers("parity", device),
            600,
            _last_line,
        ),
        Step(
            "reference",
            "8 steps on this machine's CPU, fp32",
            _command(output, "reference", TRAIN),
            300,
            _reference_losses,
        ),
        training_step("train", "the same on one card", *deterministic),
        Step(
            "resume",
            "the same, resumed at step 4: weights and moments of step 8 bit by bit",
            _command(output, "resume", [*TRAIN, *runtime, *deterministic, "train.resume=auto"]),
            600,
            lambda text: _same_bits(output),
            needs="train",
            before=lambda: _prepare_resume(output),
        ),
        training_step("dp2", "data parallelism over two cards", "parallel=dp2", limit=900, cards=2),
        training_step("tp2", "tensor parallelism over two cards", "parallel=tp2", limit=900, cards=2),
        Step(
            "lora",
            "LoRA",
            _command(output, "lora", [*TRAIN, *runtime, "adapter=lora"]),
            600,
            _loss_falls,
            needs="reference",
        ),
        Step(
            "predict",
            "an answer of the trained model",
            _predict_command(output, runtime),
            600,
            _last_line,
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


def _command(output: Path, name: str, overrides: list[str]) -> list[str]:
    directories = [f"output_dir={output / name}", f"hydra.sweep.dir={output / name}.run", "tracking=off"]
    return [sys.executable, "-m", "dscoder_exp", *overrides, *directories]


def _predict_command(output: Path, runtime: list[str]) -> list[str]:
    weights = output / "train" / "checkpoints" / "step-000008"
    overrides = ["task=predict", f"model.path={weights}", "predict.prompt=Add two numbers.", "predict.max_new_tokens=8"]
    return _command(output, "predict", [*overrides, *runtime])


def _successful(text: str) -> str:
    """Read the output: run_check() exits with code 0 when it fails, too."""
    assert "successfully!" in text, "mindspore.run_check() printed no 'successfully!'"
    return "successful"


def _last_line(text: str) -> str:
    """The last line of the output, e.g. an error and its bound; the exit code has already said whether it passed."""
    return text.strip().splitlines()[-1]


def _losses(text: str) -> tuple[float, float]:
    found = LOSSES.search(text)
    assert found, "the output has no line 'eval loss … -> … nats'"
    return float(found[1]), float(found[2])


def _reference_losses(text: str) -> str:
    before, after = _losses(text)
    assert after < before - 5 * LOSS_BOUND, f"the eval loss went from {before} to {after} on the CPU"
    return f"eval loss {before} -> {after}"


def _losses_agree(text: str, output: Path) -> str:
    """Both losses within LOSS_BOUND of the CPU's: forward, backward and optimizer work, and the update is kept."""
    found, expected = _losses(text), _losses((output / "reference.log").read_text())
    result = f"eval loss {found[0]} -> {found[1]}; in fp32 on the CPU {expected[0]} -> {expected[1]}"
    assert all(abs(mine - other) <= LOSS_BOUND for mine, other in zip(found, expected, strict=True)), result
    return result


def _loss_falls(text: str) -> str:
    before, after = _losses(text)
    assert after < before, f"the eval loss went from {before} to {after}"
    return f"eval loss {before} -> {after}"


def _same_bits(output: Path) -> str:
    """Compare the last checkpoint of the resumed run with that of the uninterrupted one."""
    one, other = (output / name / "checkpoints" / "step-000008" for name in ("train", "resume"))
    files = sorted(one.glob("*.safetensors"))
    assert len(files) == 2, f"{one} has {len(files)} .safetensors files, expected 2"
    differ = [file.name for file in files if file.read_bytes() != (other / file.name).read_bytes()]
    assert not differ, f"{' and '.join(differ)} differ between {one} and {other}"
    return "the same bits in " + " and ".join(file.name for file in files)


def _prepare_resume(output: Path) -> None:
    """Give `resume` the checkpoints of `train` as they were after its fourth step."""
    checkpoints = output / "resume" / "checkpoints"
    shutil.copytree(output / "train" / "checkpoints" / "step-000004", checkpoints / "step-000004")
    (checkpoints / "last").symlink_to("step-000004")
