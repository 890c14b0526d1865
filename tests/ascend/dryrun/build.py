"""Builds stand-ins for CANN's shared libraries, so that MindSpore's Ascend plugin loads where there is no CANN.

The plugin is in MindSpore's wheel. One library is built, and the missing libraries' names are symbolic links to it. It
contains native/*.cc, and an assembly stub for each further function that MindSpore's libraries look up by name, or need
and no library on this machine defines. Stubs are weak symbols, so a definition in native/ takes precedence.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

NATIVE = Path(__file__).parent / "native"
LIBRARY = "libcann_stand_ins.so"
OPENED = ["opapi", "acl_op_compiler", "acl_tdt_channel"]  # by dlopen, so no library lists them as NEEDED
ENDING = "GetWorkspaceSize"
# MindSpore looks these up by names that it composes at run time. Its executor cache (…PTACache…) is left out.
MEMORY = {"InitHugeMemThreadLocal", "UnInitHugeMemThreadLocal", "ReleaseHugeMem"}
TOOLS = ("g++", "nm", "readelf", "c++filt")
# MindSpore's wheel is built with the old ABI of std::string.
FLAGS = ("-D_GLIBCXX_USE_CXX11_ABI=0", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra")

# Stub bodies, by what the caller needs as a result. A result of class type is written to the address in rdi.
ZEROS = ["pxor xmm0,xmm0", "movups [rdi],xmm0"]
ITSELF = ["mov rax,rdi"]
EMPTY_STRING = ["mov rdx,_ZNSs4_Rep20_S_empty_rep_storageE@GOTPCREL[rip]", "add rdx,24", "mov [rdi],rdx", *ITSELF]
OPERATOR = [  # has a vtable: MindSpore's own, where it defines one
    "pxor xmm0,xmm0",
    "movups [rdi+8],xmm0",
    "mov rdx,_ZTVN2ge8OperatorE@GOTPCREL[rip]",
    "add rdx,16",
    "mov [rdi],rdx",
    *ITSELF,
]
BLANK = ["lea rax,blank[rip]"]  # the address of zeros
# Stores the six integer argument registers in an array, since the number of arguments isn't known, for
# native/kernels.cc.
RECORD_OPERATOR = [
    "record_operator:",
    "push rbp",
    "mov rbp,rsp",
    "sub rsp,48",
    *(f"mov [rsp+{8 * place}],{register}" for place, register in enumerate(("rdi", "rsi", "rdx", "rcx", "r8", "r9"))),
    "mov rdi,r11",
    "mov rsi,rsp",
    "lea rdx,[rbp+16]",
    "call dryrun_aclnn@PLT",
    "leave",
    "ret",
]
RULES = [  # (pattern of the demangled name, stub body): the first match applies; the last one matches every name
    (r"ge::\w+::Get(Name|OpType)\(\) const", EMPTY_STRING),
    (r"Get(In|Out)(Control|Data)Nodes|GetDirectNode|Shape::GetDims", [*ZEROS, "mov qword ptr [rdi+16],0", *ITSELF]),
    (r"GetTensorDesc\(|::Get(Origin)?Shape\(|GetOutputDesc\(|GetCompiledGraphSummary", [*ZEROS, *ITSELF]),
    (r"ge::Operator::Operator\(|CreateOperator", OPERATOR),
    (r"ge::Session::Session", ["mov qword ptr [rdi],0"]),
    (r"ge::(?!\w*Register)(\w+)::\1\(", [*ZEROS, *ITSELF]),
    (r"ge::Operator::(Set|Add)|ge::Graph::Set", ITSELF),
    (r"OperatorFactory::IsExistOp", ["mov eax,1"]),
    (r"GetString|GeInstance|CTilingDataClassFactory::GetInstance", BLANK),
    (r"", ["xor eax,eax"]),
]


def missing_requirement() -> str | None:
    """Why the stand-ins can't be built on this machine; None: they can."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "dry runs need Linux on x86-64"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"dry runs need {', '.join(absent)}, which this machine lacks" if absent else None


def stand_ins() -> Path:
    """The folder to set as ASCEND_HOME_PATH. Builds the stand-ins, within seconds, unless the cache has them.

    Several processes may build at once: each builds in its own folder, and the first to finish renames it into place.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dscoder_exp" / "ascend_dryrun"
    home = cache / _key()
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=cache))
        _build(made / "latest" / "lib64")  # MindSpore requires `latest` in the path
        try:
            made.rename(home)
        except OSError:  # another process finished first
            shutil.rmtree(made)
    return home / "latest"


def _key() -> str:
    digest = hashlib.sha256(version("mindspore").encode())
    for file in sorted([Path(__file__), *NATIVE.iterdir()]):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _build(target: Path) -> None:
    package = _mindspore()
    files, missing = _closure(package)
    needed, defined = _symbols(files)
    names, pointers = _looked_up(package)
    readable = _output_of("c++filt", *sorted(needed)).splitlines()
    pairs = dict(zip(sorted(needed), readable, strict=True))
    cpp = {name: text for name, text in pairs.items() if name != text}
    target.mkdir(parents=True)
    stub = target / "stub.S"
    stub.write_text(_assembly(cpp, (names - defined) | (needed - set(cpp)), pointers))
    _output_of("g++", *FLAGS, "-o", target / LIBRARY, stub, *sorted(NATIVE.glob("*.cc")))
    for name in missing | {f"lib{name}.so" for name in OPENED}:
        (target / name).symlink_to(LIBRARY)


def _output_of(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"building the stand-ins: {command[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _mindspore() -> Path:
    spec = find_spec("mindspore")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _roots(package: Path) -> list[Path]:
    """The libraries that MindSpore loads for Ascend, without their dependencies."""
    plugin = package / "lib" / "plugin"
    names = ("mindspore_graph_ir", "hccl_plugin", "mindspore_internal_kernels")
    return [plugin / "libmindspore_ascend.so.2", *(plugin / "ascend" / f"lib{name}.so" for name in names)]


def _closure(package: Path) -> tuple[list[Path], set[str]]:
    """The roots with all their dependencies, and the names of the dependencies that this machine lacks: CANN's."""
    system = ("/lib64", "/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/x86_64-linux-gnu")
    own = (file.parent for file in package.glob("lib/**/*.so*") if "custom" not in str(file))
    folders = list(dict.fromkeys([*own, *map(Path, system)]))
    found, missing, todo = [], set(), _roots(package)
    while todo:
        file = todo.pop()
        found.append(file)
        for name in re.findall(r"NEEDED.*\[(.*)\]", _output_of("readelf", "-d", file)):
            there = next((folder / name for folder in folders if (folder / name).exists()), None)
            if there is None:
                missing.add(name)
            elif there not in found and there not in todo:
                todo.append(there)
    return found, missing


def _symbols(files: list[Path]) -> tuple[set[str], set[str]]:
    """Symbols that the libraries need and none of them defines, without Python's and weak ones; and symbols defined."""
    wanted, defined = set(), set()
    for file in files:
        for line in _output_of("nm", "-D", file).splitlines():
            kind, name = line.split()[-2:]
            if kind == "U":
                wanted.add(name.split("@")[0])
            elif kind not in "wv":  # u and i count as defined, or memcpy would get a stub
                defined.add(name.split("@")[0])
    return {name for name in wanted - defined if not re.match(r"_?Py|_ZTH", name)}, defined


def _looked_up(package: Path) -> tuple[set[str], set[str]]:
    """C functions that MindSpore looks up by name, from its headers and strings; and those that return a pointer."""
    headers = (file for file in (package / "include").rglob("*.h") if "ascend" in str(file))
    text = "".join(file.read_text(errors="ignore") for file in headers)
    declared = re.findall(r"ORIGIN_METHOD\w*\(\s*(\w+)\s*,\s*([^,)]+)", text)
    names = MEMORY | {name for name, _ in declared} | set(re.findall(r"using _(acl\w+) =", text))
    # Print channels (acltdt*) stay null, or a MindSpore thread would read from one for ever.
    addresses = {name for name, kind in declared if re.search(r"(\*|Desc)\s*$", kind)}
    pointers = {name for name in addresses if not name.startswith("acltdt")}
    plugin = package / "lib" / "plugin"
    files = [*_roots(package), plugin / "libmindspore_ops_ascend.so"]
    files += [plugin / "ascend" / f"lib{name}.so" for name in ("mindspore_ascend_res_manager", "d_collective")]
    for file in files:
        found = re.findall(rb"\0((?:aclnn|acl|Hccl|Hcom|rt)[A-Z][A-Za-z0-9_]+)(?=\0)", file.read_bytes())
        names |= {name.decode() for name in found if not name.endswith(b"_")}
    names |= {name + ENDING for name in names if name.startswith("aclnn") and not name.endswith(ENDING)}
    return names, pointers


def _function(name: str, body: list[str]) -> list[str]:
    return [f".weak {name}", f".type {name},@function", f"{name}:", *body]


def _assembly(cpp: dict[str, str], names: set[str], pointers: set[str]) -> str:
    """The text of stub.S.

    Args:
        cpp: C++ functions, mangled name -> demangled name.
        names: C functions.
        pointers: those of `names` that return an address.
    """
    out = [".intel_syntax noprefix", ".text"]
    for name, readable in cpp.items():
        out += _function(name, [*next(body for rule, body in RULES if re.search(rule, readable)), "ret"])
    operators = sorted(name for name in names if name.startswith("aclnn"))
    others = sorted(names - set(operators))
    for number, name in enumerate(operators):
        out += _function(name, [f"lea r11,operator{number}[rip]", "jmp record_operator"])
    for number, name in enumerate(others):
        count = f"lock inc qword ptr dryrun_stub_counts[rip+{8 * number}]"
        out += _function(name, [count, *(BLANK if name in pointers else ["xor eax,eax"]), "ret"])
    out += RECORD_OPERATOR
    out += [".section .rodata", *(f'operator{n}: .asciz "{name}"' for n, name in enumerate(operators))]
    out += [*(f'other{n}: .asciz "{name}"' for n, name in enumerate(others))]
    out += [".balign 8", ".globl dryrun_stub_total", f"dryrun_stub_total: .quad {len(others)}"]
    out += [".section .data.rel.ro", ".balign 8", ".globl dryrun_stub_names", "dryrun_stub_names:"]
    out += [f".quad other{number}" for number in range(len(others))]
    out += [".weak _ZTVN2ge8OperatorE", ".bss", ".balign 64", "blank: .zero 65536"]
    out += [".globl dryrun_stub_counts", ".hidden dryrun_stub_counts", f"dryrun_stub_counts: .zero {8 * len(others)}"]
    return "\n".join([*out, '.section .note.GNU-stack,"",@progbits']) + "\n"
