"""What this machine can do: quick checks of everything that medxlate needs or uses."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.requirements import Requirement

from medxlate import pretrained
from medxlate.base import machine, plugins
from medxlate.base.errors import plural

if TYPE_CHECKING:
    import torch

State = Literal["ok", "note", "problem"]
_GIB = 2**30
LITTLE_MEMORY, LITTLE_DISK, LITTLE_SHARED = 4 * _GIB, 5 * _GIB, _GIB // 2
EXTRAS = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "alembic", "sqlalchemy", "sqlparse"),
    "cluster": ("ray",),
}
# Where typer's --install-completion writes, below the home folder.
COMPLETIONS = (
    *(".bash_completions/medxlate.sh", ".zfunc/_medxlate"),
    ".config/fish/completions/medxlate.fish",
)
SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CPUS_PER_TASK", "SLURM_GPUS_ON_NODE")


@dataclass(frozen=True)
class Check:
    """What was checked, and the outcome.

    Attributes:
        name: What was checked.
        state: ok; note (something is slower, or an optional part is missing); problem (medxlate, or
            a part of it, will not work).
        found: The outcome, for people.
        fix: What to do about it; "" for nothing.
    """

    name: str
    state: State
    found: str
    fix: str = ""


def examine(folder: Path | str = ".", environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Check this machine.

    Args:
        folder: Where data and runs will be: its disk and its write access are checked.
        environ: The environment.
    """
    checks = [_python(), *_packages(), _cores(), _memory(), *_disk(Path(folder)), _shared_memory()]
    checks += [*_of_torch(), _codecs(), *_extras(), *_plugins(), *_weights(environ)]
    checks += [_completion(), _slurm(environ)]
    return checks


def _python() -> Check:
    bits = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return Check("Python", "ok", bits)


def _packages() -> list[Check]:
    """Compare the installed packages with what medxlate requires."""
    try:
        version = metadata.version("medxlate")
        asked = [Requirement(text) for text in metadata.requires("medxlate") or []]
    except metadata.PackageNotFoundError:
        fix = "Install it, for example with `pip install -e .` in its checkout."
        return [Check("packages", "note", "medxlate is running without being installed", fix)]
    wrong, versions = [], []
    for each in asked:
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            wrong.append((f"{each.name} is missing", str(each)))
            continue
        versions.append(f"{each.name} {found}")
        if not each.specifier.contains(found, prereleases=True):
            wrong.append((f"{each.name} is {found}", str(each)))
    checks = [
        Check("packages", "problem", what, f"pip install '{needed}'") for what, needed in wrong
    ]
    return checks or [Check("packages", "ok", f"medxlate {version}; {', '.join(versions)}")]


def _cores() -> Check:
    usable, all_ = machine.cores(), os.cpu_count() or 1
    found = f"{usable} usable" + (f" of {all_}" if usable != all_ else "")
    if usable == 1:
        fix = "Request more cores if you can: images are read in several processes."
        return Check("processor cores", "note", found, fix)
    return Check("processor cores", "ok", found)


def _memory() -> Check:
    left = machine.memory_left()
    if left is None:
        return Check("memory", "note", "the system does not report free memory")
    found = f"{left / _GIB:.1f} GiB free"
    if left < LITTLE_MEMORY:
        fix = "Train with --preset scarce, or close other programs."
        return Check("memory", "note", found, fix)
    return Check("memory", "ok", found)


def _disk(folder: Path) -> list[Check]:
    shown = folder.resolve()
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        written = Check("write access", "ok", str(shown))
    except OSError as problem:
        fix = "Work in a folder that you can write to."
        reason = problem.strerror or str(problem)
        return [Check("write access", "problem", f"{shown}: {reason}", fix)]
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free in {shown}"
    if free < LITTLE_DISK:
        fix = "Free some space: a run keeps its newest and its best checkpoint (--keep)."
        return [written, Check("disk", "note", found, fix)]
    return [written, Check("disk", "ok", found)]


def _shared_memory() -> Check:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check("shared memory", "ok", "not on this system")
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < LITTLE_SHARED:
        fix = "In a container, start it with more: docker run --shm-size=1g."
        return Check("shared memory", "note", found, fix)
    return Check("shared memory", "ok", found)


def _of_torch() -> list[Check]:
    try:
        import torch

        from medxlate.base.device import cpu_flags, has_native_bf16
    except (ImportError, OSError, RuntimeError) as problem:  # a broken build raises any of them
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        return [Check("torch", "problem", f"cannot be loaded: {first}", "Reinstall it.")]
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    checks = [
        Check(
            "torch",
            "ok",
            f"{torch.__version__}, {built}, {plural(torch.get_num_threads(), 'thread')}",
        )
    ]
    flags = cpu_flags()
    names = {"avx512f": "AVX-512", "avx512_bf16": "AVX512-bf16", "amx_bf16": "AMX-bf16"}
    found = (
        ", ".join(name for flag, name in names.items() if flag in flags) or "none of AVX-512, AMX"
    )
    if has_native_bf16(torch.device("cpu")):
        checks.append(Check("processor", "ok", f"{found}; bf16 is fast"))
    else:
        checks.append(Check("processor", "note", f"{found}; training uses fp32"))
    return [*checks, *_devices()]


def _devices() -> list[Check]:
    import torch

    from medxlate.base.device import cuda_refusal

    driver, refusal = _driver(), cuda_refusal()
    if refusal is None:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
        found = f"driver {driver or 'unknown'}, torch's {built}"
        numbers = range(torch.cuda.device_count())
        return [Check("GPU", "ok", found), *(_cuda_device(number) for number in numbers)]
    if driver:
        return [Check("GPU", "problem", f"driver {driver}, but {refusal.why}", refusal.fix)]
    if torch.backends.mps.is_available():
        return [Check("mps", "ok", "Apple's GPU")]
    fix = "Use --preset scarce on the CPU, or train on a machine with a GPU."
    return [Check("GPU", "note", "none", fix)]


def _driver() -> str:
    """Return the version of NVIDIA's driver; "" where there is none."""
    with suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        if version := re.search(r"\b\d+\.\d+(\.\d+)?\b", text):
            return version[0]
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ""
    with suppress(OSError, subprocess.SubprocessError):
        asked = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.split("\n")[0].strip() or "unknown"
    return "unknown"


def _cuda_device(number: int) -> Check:
    """Try a GPU: kernels for it, a sum, bf16, and capturing a step."""
    import torch

    from medxlate.base.device import has_native_bf16

    device = torch.device("cuda", number)
    props = torch.cuda.get_device_properties(device)
    capability = f"{props.major}.{props.minor}"
    what = f"{props.name}, compute capability {capability}, {props.total_memory / _GIB:.0f} GiB"
    if not _has_kernels(props.major, props.minor, torch.cuda.get_arch_list()):
        why = f"{what}; this torch has no kernels for it"
        fix = "Install a torch build with them: docs/how-to/install.md."
        return Check(str(device), "problem", why, fix)
    if failed := _failure(_compute, device):
        fix = "Check with `nvidia-smi` what else is running there."
        return Check(str(device), "problem", f"{what}; it cannot compute: {failed}", fix)
    slow = []
    if not has_native_bf16(device):
        slow.append("no bf16, so training uses fp32")
    elif failed := _failure(_multiply, device):
        slow.append(f"bf16 fails: {failed}")
    if failed := _failure(_capture, device):
        slow.append(f"CUDA graph capture fails: {failed}")
    if slow:
        fix = "This works, but a newer GPU or driver is faster." if props.major < 8 else ""
        return Check(str(device), "note", f"{what}; {'; '.join(slow)}", fix)
    return Check(str(device), "ok", f"{what}; bf16 and CUDA graph capture work")


def _has_kernels(major: int, minor: int, built: Sequence[str]) -> bool:
    """Return whether torch was built for a compute capability (CUDA C++ guide, 3.1).

    Args:
        major: Of the GPU.
        minor: Of the GPU.
        built: As torch names it: sm_80 runs on 8.0 and later ones of 8, compute_80 is compiled for
            any later one. AMD's names, such as gfx90a, say nothing of a compute capability.
    """
    built = [name for name in built if name.startswith(("sm_", "compute_"))]
    for name in built:
        kind, _, digits = name.partition("_")
        digits = digits.rstrip("af")
        own = (int(digits[:-1]), int(digits[-1])) if len(digits) > 1 else (0, 0)
        if kind == "compute" and own <= (major, minor):
            return True
        if kind == "sm" and own[0] == major and own[1] <= minor:
            return True
    return not built


def _failure(attempt: Callable[[torch.device], object], device: torch.device) -> str:
    """Return the first line of what an attempt raises; "" where it works."""
    try:
        attempt(device)
    except RuntimeError as problem:
        return str(problem).splitlines()[0]
    return ""


def _compute(device: torch.device) -> None:
    import torch

    torch.ones(64, device=device).sum().item()


def _multiply(device: torch.device) -> None:
    import torch

    ones = torch.ones(64, 64, device=device, dtype=torch.bfloat16)
    torch.cuda.synchronize((ones @ ones).device)


def _capture(device: torch.device) -> None:
    import torch

    with torch.cuda.device(device):
        ones, graph = torch.ones(64, device=device), torch.cuda.CUDAGraph()
        # Torch's own stream for captures is of the first device that captured anything.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.graph(graph, stream=stream):
            ones.add_(1)
        graph.replay()
        torch.cuda.synchronize()


def _codecs() -> Check:
    """Ask pydicom which compressed pixel data it can read."""
    from medxlate.images.dicom.codecs import readable

    missing = [name for name, can in readable().items() if not can]
    if missing:
        fix = "pip install python-gdcm"
        return Check("DICOM codecs", "problem", f"cannot read {', '.join(missing)}", fix)
    return Check("DICOM codecs", "ok", ", ".join(readable()))


def _extras() -> list[Check]:
    checks = []
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            fix = f"Only if you need it: pip install 'medxlate[{extra}]'"
            checks.append(
                Check(f"extra {extra}", "note", f"{', '.join(missing)} not installed", fix)
            )
        else:
            checks.append(Check(f"extra {extra}", "ok", ", ".join(packages)))
    return checks


def _plugins() -> list[Check]:
    """List the parts that other packages add, by their metadata: nothing of them is imported."""
    parts: dict[str, list[str]] = {}
    odd = []
    for each in plugins.installed():
        package, what = f"plug-in {each.distribution}", f"{plugins.WORDS[each.kind]} {each.name}"
        parts.setdefault(package, [f"version {each.version}"]).append(what)
        try:
            plugins.find(each.kind, each.name)
        except plugins.PluginError as problem:
            odd.append(Check(package, "problem", problem.message, problem.hint))
        if each.name in _own_names().get(each.kind, ()):
            why = f"the {what} is never used: medxlate has one of that name itself"
            odd.append(Check(package, "note", why))
    checks = [Check(package, "ok", ", ".join(each)) for package, each in parts.items()]
    return [*(checks or [Check("plug-ins", "ok", "none installed")]), *odd]


@cache
def _own_names() -> dict[plugins.Kind, Collection[str]]:
    """Return the names that medxlate has itself, and which always win."""
    from medxlate.dataset.layouts import LAYOUTS
    from medxlate.images.recipes import KINDS

    found: dict[plugins.Kind, Collection[str]] = {"layouts": LAYOUTS, "recipes": (*KINDS, "auto")}
    with suppress(ImportError, OSError, RuntimeError):  # a broken torch, which has its own check
        from medxlate.method.generator import GENERATORS
        from medxlate.method.predictor import import_timm
        from medxlate.method.registry import METHODS, STAGES

        found |= {"methods": {*METHODS, *STAGES}, "generators": GENERATORS}
        found["predictors"] = ("auto", *import_timm().list_models())
    return found


def _weights(environ: Mapping[str, str]) -> list[Check]:
    """Check the places where evaluate and train look for published weights."""
    inception = pretrained.checkpoints_folder() / pretrained.REGISTRY["inception"].file
    if inception.is_file():
        first = Check("weights inception", "ok", str(inception))
    else:
        fix = "For fid, kid and is: medxlate fetch inception"
        first = Check("weights inception", "note", f"not at {inception}", fix)
    home = Path(environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    snapshots = hub / "models--timm--resnet50.a1_in1k" / "snapshots"
    held = next(iter(sorted(snapshots.glob("*/model.safetensors"))), None)
    if held is not None:
        return [first, Check("weights resnet50", "ok", str(held))]
    fix = "--pretrained imagenet downloads them. Without internet access: medxlate fetch resnet50"
    return [first, Check("weights resnet50", "note", f"not in {hub}", fix)]


def _completion() -> Check:
    with suppress(RuntimeError):  # there is no home folder
        for name in COMPLETIONS:
            if (Path.home() / name).is_file():
                return Check("completion", "ok", f"~/{name}")
    return Check("completion", "note", "not installed", "medxlate --install-completion")


def _slurm(environ: Mapping[str, str]) -> Check:
    held = [f"{name}={environ[name]}" for name in SLURM if name in environ]
    if held:
        asked, usable = environ.get("SLURM_CPUS_PER_TASK", ""), machine.cores()
        if asked.isdigit() and int(asked) > usable:
            fix = "Start it with srun --cpus-per-task, or set SRUN_CPUS_PER_TASK."
            return Check("SLURM", "note", f"{', '.join(held)}, but only {usable} usable cores", fix)
        return Check("SLURM", "ok", ", ".join(held))
    sbatch = shutil.which("sbatch")
    return Check("SLURM", "ok", "not in a job" if sbatch else "not on this machine")
