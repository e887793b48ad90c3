#!/usr/bin/env bash
# Installs the servers and the browser that tests start (Debian and derivatives, as root). All are optional: without one,
# its tests are skipped with the command that installs it.
set -euo pipefail

packages=(
    postgresql                                   # campaigns and ledger in production
    chromium                                     # the browser of the console's tests
    openjdk-17-jre-headless maven                # Apache Kafka and the download of its jars
    containerd runc containernetworking-plugins  # a Kubernetes node that runs real pods
    iptables iproute2
)
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep --quiet '^installed$' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "Installing ${missing[*]}"
apt-get update --quiet=2
DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}"
