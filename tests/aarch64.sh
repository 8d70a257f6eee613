#!/usr/bin/env bash
# Runs the tests on an aarch64 machine, which most Ascend servers are: a Kunpeng 920, emulated by qemu.
#
#     tests/aarch64.sh                     the fast tests, then tests/npu beside torch_npu
#     tests/aarch64.sh tests/data -x       what is given to pytest; paths in tests/npu run beside torch_npu
#
# Needs root on Debian or Ubuntu on x86-64, a network, 4 GB of disk and, the first time, about ten minutes. The arm64
# system and its packages stay in .aarch64/root (AARCH64_ROOT names another folder); delete it to begin anew. Emulation
# is ten times slower than the machine or more, so the fast tests take hours.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "tests/aarch64.sh: $1" >&2
    exit 2
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "needs Linux on x86-64; on aarch64, run \`make test\`"
[ "$(id -u)" = 0 ] || fail "needs root, for chroot and mounts; start it with sudo"
for program in debootstrap qemu-aarch64-static unshare readelf; do
    command -v $program > /dev/null ||
        fail "$program is missing; run \`apt-get install debootstrap qemu-user-static util-linux binutils\`"
done
PYTHON=${PYTHON:-python3}
$PYTHON -c "import pip, tomllib" 2> /dev/null || fail "$PYTHON needs to be 3.11 or newer and to have pip"

# In a mount namespace of its own, all mounts below end with the script, however it ends.
if [ -z "${AARCH64_NAMESPACE:-}" ]; then
    AARCH64_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
fi

root=$(realpath -m "${AARCH64_ROOT:-.aarch64/root}")
packages=$root/usr/local/lib/python3.11/dist-packages
mkdir -p "$root"

# The kernel hands arm64 programs to qemu. This registration, the one that Debian makes at boot, outlives the script.
binfmt=/proc/sys/fs/binfmt_misc
[ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
[ -e $binfmt/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf > $binfmt/register

if [ ! -e "$root/.installed-system" ]; then
    [ ! -e "$root/debootstrap" ] || fail "$root is half made; delete it and start again"
    debootstrap --arch=arm64 --variant=minbase --include=python3.11-dev,g++,make,git bookworm "$root"
    touch "$root/.installed-system"
fi

# pip for aarch64, run by this machine's Python.
install() {
    local target=$1 minor platforms=(--platform manylinux2014_aarch64)
    for minor in 17 {24..36}; do # up to bookworm's glibc
        platforms+=(--platform "manylinux_2_${minor}_aarch64")
    done
    shift
    "$PYTHON" -m pip install -q --root-user-action ignore --no-compile --upgrade --target "$target" "${platforms[@]}" \
        --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none --only-binary=:all: \
        -c constraints.txt "$@"
}

# Requirements of pyproject.toml, but for torch and the linters; `-` stands for those that are always needed.
requirements() {
    "$PYTHON" - "$@" << 'END'
import re, sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
groups = {"-": project["dependencies"]} | project["optional-dependencies"]
found = [requirement for group in sys.argv[1:] for requirement in groups[group]]
print("\n".join(r.replace(" ", "") for r in found if not re.match(r"torch|ssd_graph|ruff|pyright", r)))
END
}

# PyPI's torch is built for CUDA. What its CPU side is linked to there becomes one library whose functions do nothing:
# that spares 3 GB of packages, and torch_npu, which ends the process beside CUDA's side, loads.
without_cuda() {
    local lib=$packages/torch/lib undefined name
    symbols() {
        readelf -W --dyn-syms "${@:2}" | awk -v undefined="$1" '($7 == "UND") == undefined && $8 { print $8 }'
    }
    undefined=$(symbols 1 "$lib"/libtorch_{cpu,python}.so | sort -u)
    {
        comm -12 <(echo "$undefined") <(symbols 0 "$lib"/lib{torch_cuda,torch_nvshmem,c10_cuda}.so | sort -u)
        grep -E "^(cuda|cudnn|cuFile|cupti|nccl)" <<< "$undefined" | sed 's/@.*//'
    } | sort -u | awk '
        BEGIN {
            print "extern void *_ZTVN10__cxxabiv117__class_type_infoE[];"
            print "static long zeros[512]; static long nothing(void) { return 0; }"
            print "static void *virtual[66] = {0, 0, [2 ... 65] = nothing};"
        }
        # While it is imported, torch asks for the names of classes, makes an object, and reads through one reference.
        /^_ZTI/ { print "void *" $1 "[] = {_ZTVN10__cxxabiv117__class_type_infoE + 2, \"" substr($1, 5) "\"};"; next }
        /C[12]E/ { print "void " $1 "(void **object) { *object = virtual + 2; }"; next }
        /get_gil_checker/ { print "long *" $1 "(void) { return zeros; }"; next }
        { print "long " $1 "(void) { return 0; }" }' > "$root/opt/cuda.c"
    # Some symbols are looked up with the name of a library as their version.
    awk -F@ '/@libcu/ { of[$2] = of[$2] $1 "; " } END { for (name in of) print name " { " of[name] "};" }' \
        <<< "$undefined" > "$root/opt/cuda.versions"
    rm -f "$lib"/lib{torch_cuda,torch_cuda_linalg,torch_nvshmem,c10_cuda,caffe2_nvrtc}.so
    chroot "$root" gcc -shared -fPIC -w -Wl,--version-script=/opt/cuda.versions \
        -o "${lib#"$root"}/libtorch_cuda.so" /opt/cuda.c -lstdc++
    for name in $(readelf -d "$lib"/libtorch_{cpu,python,global_deps}.so |
        sed -n 's/.*NEEDED.*\[\(lib.*cu.*\|libnccl.*\)\]/\1/p' | sort -u | grep -v libtorch_cuda.so); do
        ln -s libtorch_cuda.so "$lib/$name"
    done
    sed -i 's/^cuda: .*/cuda = None/; s/+cu[0-9]*/+cpu/' "$packages/torch/version.py"
}

if ! cmp -s <(cat pyproject.toml constraints.txt) "$root/.installed-packages"; then
    torch=$(sed -n 's/^torch==//p' constraints.txt)
    rm -rf "$packages" "$root/opt/npu"
    install "$packages" --no-deps "torch==$torch+cpu" 2> /dev/null ||
        install "$packages" --no-deps "torch==$torch+cpu" --index-url "${CPU_WHEELS:-}" 2> /dev/null ||
        { install "$packages" --no-deps "torch==$torch" && without_cuda; }
    # shellcheck disable=SC2046 # one word each
    install "$packages" pip filelock fsspec jinja2 networkx sympy typing-extensions \
        $(requirements - tensorboard faster video gpu docs dev)
    # torch_npu changes what `import torch` does, so it lies apart.
    # shellcheck disable=SC2046
    install "$root/opt/npu" --no-deps "torch_npu==$torch" $(requirements npu)
    cat pyproject.toml constraints.txt > "$root/.installed-packages"
fi

# What the kernel tells of a Kunpeng 920. With an x86-64 host's, torch and onnxruntime crash when they look for cores.
cores=$(nproc)
machine=$root/opt/kunpeng
mkdir -p "$machine/sys/devices/system/cpu"
echo "0-$((cores - 1))" | tee "$machine"/sys/devices/system/cpu/{possible,present,online} > /dev/null
for ((core = 0; core < cores; core++)); do
    folder=$machine/sys/devices/system/cpu/cpu$core
    mkdir -p "$folder"/{topology,cpufreq,regs/identification}
    echo "$core" | tee "$folder"/topology/{core_id,thread_siblings_list} > /dev/null
    echo 0 > "$folder/topology/physical_package_id"
    echo "0-$((cores - 1))" > "$folder/topology/core_siblings_list"
    echo 2600000 | tee "$folder"/cpufreq/cpuinfo_{min,max}_freq > /dev/null
    echo 0x00000000481fd010 > "$folder/regs/identification/midr_el1"
    cat << END
processor	: $core
BogoMIPS	: 200.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm jscvt fcma dcpop asimddp asimdfhm
CPU implementer	: 0x48
CPU architecture: 8
CPU variant	: 0x1
CPU part	: 0xd01
CPU revision	: 0

END
done > "$machine/cpuinfo"

mount -t proc proc "$root/proc"
mount --bind "$machine/cpuinfo" "$root/proc/cpuinfo"
mount --bind "$machine/sys" "$root/sys"
mount --rbind /dev "$root/dev"
mkdir -p "$root/ssd_graph" "$root/shared" "$root/opt/home"
mount --bind . "$root/ssd_graph"
shared=()
if [ -n "${SSD_GRAPH_SHARED:-}" ]; then
    mount --bind -o ro "$SSD_GRAPH_SHARED" "$root/shared"
    shared=(SSD_GRAPH_SHARED=/shared)
fi
echo "127.0.0.1 localhost $(uname -n)" > "$root/etc/hosts" # gloo warns where a name is unknown
echo /ssd_graph > "$packages/ssd_graph.pth"
printf '[safe]\n\tdirectory = *\n' > "$root/etc/gitconfig" # the repository may belong to another user than root

# The processor has ARM 8.2 with fp16 and no SVE, as qemu's neoverse-n1. Time limits are for real machines.
pytest() {
    local python_path=
    [[ " $* " != *" tests/npu"* ]] || python_path=/opt/npu
    chroot "$root" env -i HOME=/opt/home PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 QEMU_CPU=neoverse-n1 \
        PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 SSD_GRAPH_PATIENCE=20 PYTHONPATH=$python_path "${shared[@]}" \
        sh -c 'cd /ssd_graph && exec "$@"' - python3.11 -m pytest -o timeout=36000 "$@"
}

if [ $# -gt 0 ]; then
    pytest "$@"
else
    parallel=(-n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder)
    failed=0
    pytest "${parallel[@]}" || failed=1
    pytest "${parallel[@]}" tests/npu || failed=1
    exit $failed
fi
