#!/bin/sh
# Installs a part of an image (Containerfile) from the lock /opt/llm-auction/requirements.txt into /opt/llm-auction:
#
#   all      all packages of the lock
#   torch    torch, triton and NVIDIA's libraries alone, into /opt/torch
#   rest     all packages but those
#   project  the project's wheel in /mnt
#   triton   tritonserver into /opt/triton, linked as /opt/tritonserver
#
# Bytecode is compiled here, because images are read-only, and without times, so that two builds are equal.
set -eu
environment=/opt/llm-auction
lock=$environment/requirements.txt
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# source distributions are built with the tools' setuptools, which is not installed for it
export PYTHONPATH=/opt/tools/packages

install() {
    "$environment/bin/python" -m pip install --no-deps --no-compile --ignore-installed "$@"
}

# The lock's entries, each a line with its hashes on the lines after it, whose names match (1) or do not (0).
entries() {
    awk -v wanted="$1" '/^[a-zA-Z0-9]/ { match_ = /^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)==/ ? 1 : 0 }
        /^#/ { next } match_ == wanted' "$lock"
}

# Packages hold files for other versions of Python, which do not compile: their errors (-qq, true) mean nothing.
# -f: also over bytecode with times, which pip writes where no option prevents it.
compile() {
    env -u PYTHONPATH "$environment/bin/python" -m compileall -qq -f --invalidation-mode unchecked-hash "$@" || true
}

case "$1" in
all)
    install --require-hashes --no-build-isolation -r "$lock"
    compile "$environment"
    ;;
torch)
    entries 1 >/tmp/torch.txt
    if [ -n "${TORCH_INDEX:-}" ]; then
        install --target /opt/torch --index-url "$TORCH_INDEX" "$(awk '/^torch==/ { print $1 }' /tmp/torch.txt)"
    else
        install --target /opt/torch --require-hashes -r /tmp/torch.txt
    fi
    echo /opt/torch >"$(echo "$environment"/lib/python3.*/site-packages)/torch.pth"
    rm /tmp/torch.txt
    compile /opt/torch
    ;;
rest)
    entries 0 >/tmp/rest.txt
    install --require-hashes --no-build-isolation -r /tmp/rest.txt
    rm /tmp/rest.txt
    compile "$environment"
    ;;
project)
    install /mnt/*.whl
    site=$(echo "$environment"/lib/python3.*/site-packages)
    while read -r room; do compile "$site/$room"; done <"$(echo "$site"/llm_auction-*.dist-info/top_level.txt)"
    ;;
triton)
    "$environment/bin/python" -m cli.main triton prepare --folder /opt/triton
    ln -s "$(echo /opt/triton/environment/lib/python3.*/site-packages/pytriton/tritonserver)" /opt/tritonserver
    compile /opt/triton
    ;;
*)
    echo "error: $1 is no part: all, torch, rest, project or triton" >&2
    exit 2
    ;;
esac
