# Shared by the scripts of this directory: sourced, never run.
#
# Every path is derived from the checkout this file lies in, or from a variable that a caller may set:
#   BERTH_CACHE      test tools and their sources; default: .cache in the checkout (git-ignored)
#   CARGO_TARGET_DIR cargo's own; default: target in the checkout

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
BERTH_CACHE="${BERTH_CACHE:-$ROOT/.cache}"
TOOLS="$BERTH_CACHE/tools"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$ROOT/target}"
export ROOT BERTH_CACHE TOOLS

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die MESSAGE [WHAT TO DO]: exits 1.
die() {
    printf 'error: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then printf '       %s\n' "$2" >&2; fi
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "$0 must run as root" "try: sudo $0 $*"
}

# need_packages COMMAND=PACKAGE…: installs the Debian packages whose command is missing.
# A word with a slash before the = is a file instead of a command.
need_packages() {
    local pair what missing=()
    for pair in "$@"; do
        what="${pair%%=*}"
        case "$what" in
        */*) [ -e "$what" ] || missing+=("${pair#*=}") ;;
        *) command -v "$what" >/dev/null || missing+=("${pair#*=}") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "missing: ${missing[*]}" "install them with the package manager of this system"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return 0
    apt-get -qq update >&2
    apt-get -qq install -y --no-install-recommends "${missing[@]}" >&2
}

# Cargo may be installed for the user who called sudo only.
find_cargo() {
    local dir
    for dir in "${CARGO_HOME:-$HOME/.cargo}/bin" "/home/${SUDO_USER:-}/.cargo/bin" /usr/local/cargo/bin; do
        if ! command -v cargo >/dev/null && [ -x "$dir/cargo" ]; then export PATH="$dir:$PATH"; fi
    done
    command -v cargo >/dev/null || die "cargo is not installed" "install Rust 1.90 or newer (rustup.rs), then run this again"
}

find_go() {
    if ! command -v go >/dev/null && [ -x /usr/local/go/bin/go ]; then export PATH="/usr/local/go/bin:$PATH"; fi
    command -v go >/dev/null || die "go is not installed" "the test tools are Go programs: install Go 1.26 or newer"
}

# build_programs: builds berth, berth-keeper and berth-runtime (release) into $BERTH_BIN_DIR. The keeper and
# the runtime are static: they are started where no library may be trusted. The daemon resolves host names
# and so keeps the C library's resolver.
build_programs() {
    local host program
    find_cargo
    need_packages cc=gcc
    host="$(rustc -vV | sed -n 's/^host: //p')"
    (
        cd "$ROOT"
        cargo build --release --bins -p daemon
        RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
            cargo build --release --bins -p keeper -p runtime --target "$host"
    )
    export BERTH_BIN_DIR="$CARGO_TARGET_DIR/berth"
    mkdir -p "$BERTH_BIN_DIR"
    # Installed, not linked: a program that runs is replaced, never written to.
    for program in "release/berth" "$host/release/berth-keeper" "$host/release/berth-runtime"; do
        install -C -m 0755 "$CARGO_TARGET_DIR/$program" "$BERTH_BIN_DIR/"
    done
}

# isolated COMMAND…: runs it in namespaces of its own, so that what the daemon does to mounts, links,
# nftables, System V IPC and the host name does not reach this machine, and nothing it starts outlives it.
isolated() {
    unshare --mount --net --ipc --uts --pid --fork --mount-proc --kill-child=SIGKILL --propagation private \
        "$ROOT/hack/isolate" "$@"
}
