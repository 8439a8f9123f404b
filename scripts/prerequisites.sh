#!/usr/bin/env bash
# Checks what a machine needs before `make` can build; with "test" also what the tests need (a browser, PostgreSQL), with
# "lint" the Rust linters. As root on Debian or Ubuntu it installs Debian packages; anything else that is missing is named with
# the command that installs it. Silent and quick when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-build}

packages=() commands=()
sudo=$([ "$(id -u)" = 0 ] || echo "sudo ")
has() { command -v "$1" >/dev/null 2>&1; }
root() { [ -z "$sudo" ]; }
node_major() { { node --version | sed 's/^v\([0-9]*\).*/\1/'; } 2>/dev/null || echo 0; }
node_fits() { has npm && [ "$(node_major)" -ge 20 ]; }
debian_node() { apt-cache policy nodejs 2>/dev/null | sed -n 's/^ *Candidate: \([0-9]*\)\..*/\1/p' | grep . || echo 0; }

has cc || packages+=(build-essential)
# Debian splits ensurepip off: a python3 that is new enough may lack only that.
[ -x .venv/bin/python ] || [ -n "$(scripts/find-python.sh)" ] || packages+=(python3-venv)
# Prometheus for the tests alone: unpacked, not installed, so that no service starts on anybody's machine.
if [ "$what" = test ] && ! has promtool && [ ! -x .cache/prometheus/usr/bin/promtool ]; then
    if has apt-get && has dpkg-deb; then
        ! root || apt-get update -qq
        mkdir -p .cache/prometheus
        (cd .cache/prometheus && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
    else
        commands+=("Prometheus 2.42 or later, with promtool, from https://prometheus.io/download")
    fi
fi
if [ "$what" = test ]; then
    has chromium || has chromium-browser || has google-chrome || packages+=(chromium)
    has ip || packages+=(iproute2)
    has nsenter || packages+=(util-linux)
    has curl || packages+=(curl)
    has systemd-analyze || packages+=(systemd)
    has nginx || [ -x /usr/sbin/nginx ] || packages+=(nginx-light)
    has caddy || packages+=(caddy)
    has docker-compose || packages+=(docker-compose) # its schema of compose.yaml; no engine comes with it
    has postgres || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || packages+=(postgresql)
fi

if { [ ${#packages[@]} -gt 0 ] || ! node_fits; } && has apt-get; then
    ! root || apt-get update -qq
    node_fits || [ "$(debian_node)" -lt 20 ] || packages+=(nodejs npm)
fi
if [ ${#packages[@]} -gt 0 ] && has apt-get && root; then
    echo "Installing Debian packages: ${packages[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
elif [ ${#packages[@]} -gt 0 ] && has apt-get; then
    commands+=("${sudo}apt-get install -y ${packages[*]}")
elif [ ${#packages[@]} -gt 0 ]; then
    commands+=("with the system's package manager, what Debian calls: ${packages[*]}")
fi

case " ${packages[*]-} " in
    *" python3-venv "*)
        [ -n "$(scripts/find-python.sh)" ] || ! root ||
            commands+=("Python 3.11 or later, with venv: curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv python install 3.13") ;;
esac
case " ${packages[*]-} " in
    *" nodejs "*) ;;
    *) node_fits || commands+=("Node 20 or later: curl -fsSL https://deb.nodesource.com/setup_22.x | ${sudo}bash - && ${sudo}apt-get install -y nodejs") ;;
esac

rust_needed=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' media/Cargo.toml)
rust_found=$(cargo --version 2>/dev/null | sed 's/^cargo \([0-9.]*\).*/\1/' || true)
if [ -z "$rust_found" ]; then
    commands+=("Rust: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y")
elif [ "$(printf '%s\n' "$rust_needed" "$rust_found" | sort -V | head -1)" != "$rust_needed" ]; then
    commands+=("Rust $rust_needed or later (here is $rust_found): rustup update stable")
elif [ "$what" = lint ]; then
    cargo fmt --version >/dev/null 2>&1 || commands+=("rustup component add rustfmt")
    cargo clippy --version >/dev/null 2>&1 || commands+=("rustup component add clippy")
fi

if [ ${#commands[@]} -gt 0 ]; then
    echo "Missing on this machine; each line says what installs it:" >&2
    printf '  %s\n' "${commands[@]}" >&2
    exit 1
fi
