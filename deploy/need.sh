#!/usr/bin/env bash
# Names what is missing in one plain sentence, with the command that installs it; as root, installs it.
# Usage: deploy/need.sh python|gcc|node|test|bench …
set -euo pipefail

fail() {
  echo "lianxin: $1" >&2
  exit 1
}

apt_updated=""
install() { # packages…
  if [ "$(id -u)" != 0 ]; then
    fail "missing Debian packages: $*. Install them with: sudo apt-get install -y --no-install-recommends $*"
  fi
  echo "Installing from Debian: $*"
  if [ -z "$apt_updated" ]; then
    apt-get update -qq || fail "apt-get update failed, so $* can't be installed; check the package source and try again."
    apt_updated=yes
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null \
    || fail "apt-get could not install $*; run it by hand to see why: apt-get install $*"
}

for what in "$@"; do
  case "$what" in
    python)
      command -v python3 >/dev/null || install python3 python3-venv
      python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || fail "Python 3.11 or newer is needed, this is $(python3 --version); on Debian 12: apt-get install python3 python3-venv"
      python3 -c 'import ensurepip, venv' 2>/dev/null || install python3-venv
      ;;
    gcc)
      command -v gcc >/dev/null || install gcc libc6-dev
      ;;
    node)
      command -v node >/dev/null && command -v npm >/dev/null \
        || fail "Node.js 20 or newer with npm is missing; install it from your Node.js package source (Debian 12's own is too old)."
      [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] \
        || fail "Node.js 20 or newer is needed, this is $(node --version)."
      ;;
    test)
      missing=()
      need() { command -v "$1" >/dev/null || [ -x "$1" ] || missing+=("$2"); }
      need chromium chromium
      need redis-server redis-server
      compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
      need promtool prometheus
      need ffprobe ffmpeg
      need ip iproute2
      need iptables iptables
      need runuser util-linux
      # the native relay's fuzzers: libFuzzer guides them; gcc (present by now) would only mutate blindly
      compgen -G '/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a' >/dev/null \
        && { command -v clang || command -v clang-14; } >/dev/null || missing+=(clang libclang-rt-dev)
      [ -n "$(fc-list :lang=zh family 2>/dev/null)" ] || missing+=(fonts-noto-cjk fontconfig)
      [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
      ;;
    bench)
      missing=()
      command -v chromium >/dev/null || missing+=(chromium)
      command -v janus >/dev/null || missing+=(janus)
      [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
      ;;
    *) fail "need.sh does not know '$what'" ;;
  esac
done
