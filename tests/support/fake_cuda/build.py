"""Build the device that is not there: one library that answers torch's calls of CUDA (fake_cuda.c).

    python tests/support/fake_cuda/build.py DIR        then run anything with the environment that it prints

Needs gcc, nm, a CUDA build of torch, and CUDA's headers: those of torch's own packages or of the toolkit.
"""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parent / "fake_cuda.c"
LIBRARY: Final = "libcuda.so.1"
CALLERS: Final = (
    "libc10_cuda.so",
    "libtorch_cuda.so",
    "libtorch_python.so",
    "libtorch_cuda_linalg.so",
    "libcaffe2_nvrtc.so",
)
"""Torch's libraries that call CUDA."""
CALL: Final = r"(?:__cuda|cuda|cublas|nccl|cu[A-Z])\w*"
"""Names of what is answered. Of cuDNN only what fake_cuda.c has: the rest is the real one's."""
OF_TRITON: Final = {
    "cuInit",
    "cuCtxSetCurrent",
    "cuCtxSetLimit",
    "cuCtxSynchronize",
    "cuFuncSetAttribute",
    "cuFuncSetCacheConfig",
    "cuModuleUnload",
    "cuTensorMapEncodeIm2col",
    "cuTensorMapEncodeTiled",
}
"""Calls that triton makes beside those of torch's libraries."""


def reason_not_to_build() -> str | None:
    """What is missing on this machine; None where the library can be built."""
    for tool in ("gcc", "nm"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if not (_torch_folder() / "lib" / "libtorch_cuda.so").exists():
        return "torch is not a CUDA build"
    return None if _headers() else "CUDA's headers are not there"


def build(folder: Path) -> Path:
    """Compile the library into `folder`; a call of CUDA that fake_cuda.c does not know returns success."""
    called = {name for library in CALLERS for name in _undefined(_torch_folder() / "lib" / library)}
    answered = set(re.findall(rf"\b({CALL})\(", SOURCE.read_text()))
    rest = "".join(f"int {name}() {{ return 0; }}\n" for name in sorted((called | OF_TRITON) - answered))
    folder.mkdir(parents=True, exist_ok=True)
    library, stubs = folder / LIBRARY, folder / "stubs.c"
    stubs.write_text(rest)
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-O1",
        "-w",
        f"-I{SOURCE.parent}",
        f"-I{_headers()}",
        f"-Wl,-soname,{LIBRARY}",
    ]
    subprocess.run([*command, "-o", library, SOURCE, stubs, "-ldl", "-lpthread"], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """The environment variables with which a process takes the library for a GPU."""
    return {
        "LD_PRELOAD": str(library.resolve()),
        "TRITON_LIBCUDA_PATH": str(library.resolve().parent),
        "OMP_NUM_THREADS": "1",
        # A pool of compiling processes would cost more than it saves: each has to import torch.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def _undefined(library: Path) -> list[str]:
    if not library.exists():
        return []
    listing = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, check=True)
    names = [line.split()[-1].split("@")[0] for line in listing.stdout.decode().splitlines()]
    return [name for name in names if re.fullmatch(CALL, name) and not name.startswith("cuFile")]


def _torch_folder() -> Path:
    spec = find_spec("torch")
    origin = None if spec is None else spec.origin
    return Path(origin or "torch").parent


def _headers() -> Path | None:
    packages = sorted(_torch_folder().parent.glob("nvidia/cu*/include"))
    folders = [*packages, *sorted(_torch_folder().parent.glob("nvidia/cuda_runtime/include"))]
    folders.append(Path("/usr/local/cuda/include"))
    return next((folder for folder in folders if (folder / "cuda.h").exists()), None)


if __name__ == "__main__":
    if (reason := reason_not_to_build()) is not None:
        sys.exit(reason)
    for name, value in environment(build(Path(sys.argv[1]))).items():
        sys.stdout.write(f"export {name}={value}\n")
