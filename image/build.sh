#!/usr/bin/env bash
# Builds the container image without a daemon: an OCI archive with one static program in an
# otherwise empty root.
#
#   image/build.sh        writes target/image/fencegate.oci.tar and target/image/fencegate.cdx.json
#
# The program is linked statically (glibc, static-pie), so the root needs nothing else. It cannot
# resolve host names. In a cluster it does not have to: KUBERNETES_SERVICE_HOST has the address of
# the API server. A kubeconfig must contain an address, too.
set -euo pipefail
cd "$(dirname "$0")/.."

# The versions of the tools. Each tool is built from its package once.
AUDITABLE=0.7.7
CYCLONEDX=0.5.9

tools=$PWD/target/tools
out=$PWD/target/image
triple=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
case $triple in
x86_64-*) platform=linux/amd64 ;;
aarch64-*) platform=linux/arm64 ;;
*) echo "no image for $triple" >&2 && exit 2 ;;
esac
mkdir -p "$out"

tool() {
  if ! grep -qs "\"$1 $2 " "$tools/.crates2.json"; then
    cargo install --quiet --locked --version "=$2" --root "$tools" --target-dir "$tools/target" "$1"
  fi
}
tool cargo-auditable "$AUDITABLE"
tool cargo-cyclonedx "$CYCLONEDX"
(cd image && go build -o "$tools/bin/" -ldflags "-s -w" tool)
export PATH="$tools/bin:$PATH"

# The list of dependencies, twice: inside the program, and as a CycloneDX file.
RUSTFLAGS="-C target-feature=+crt-static" cargo auditable build --quiet --release --locked --target "$triple" --target-dir "$PWD/target"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0) cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename fencegate.cdx
# Removes the path of this folder: the file must not depend on where it was built. Each package of
# the workspace got a file.
sed "s#file://$PWD#file:///fencegate#g" fencegate.cdx.json >"$out/fencegate.cdx.json"
rm fencegate.cdx.json model/fencegate.cdx.json

# The same program gives the same layer: times, owners and order are fixed.
root=$(mktemp -d)
registry=
trap 'rm -rf "$root"; [ -z "$registry" ] || kill "$registry"' EXIT
mkdir "$root/layer" "$root/registry"
cp "target/$triple/release/fencegate" "$root/layer/fencegate"
cp LICENSE "$out/fencegate.cdx.json" "$root/layer/"
chmod 0755 "$root/layer/fencegate" && chmod 0644 "$root/layer/LICENSE" "$root/layer/fencegate.cdx.json"
tar --create --file "$root/layer.tar" --directory "$root/layer" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 .

# crane can change an image's configuration only in a registry, so one runs on loopback meanwhile.
port=$((20000 + $$ % 10000))
while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
crane registry serve --address "127.0.0.1:$port" --disk "$root/registry" >"$root/registry.log" 2>&1 &
registry=$!
image=127.0.0.1:$port/fencegate:$version
for _ in $(seq 100); do crane catalog "127.0.0.1:$port" >/dev/null 2>&1 && break || sleep 0.1; done
crane append --oci-empty-base --platform "$platform" --new_layer "$root/layer.tar" --new_tag "$image" >/dev/null
crane mutate "$image" --tag "$image" --set-platform "$platform" --entrypoint /fencegate --user 65532:65532 \
  --label "org.opencontainers.image.title=fencegate" \
  --label "org.opencontainers.image.version=$version" \
  --label "org.opencontainers.image.licenses=Apache-2.0" \
  --label "org.opencontainers.image.revision=${REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}" >/dev/null
rm -rf "$root/oci"
crane pull --format oci --annotate-ref "$image" "$root/oci"
sed -i "s#127.0.0.1:$port/##g" "$root/oci/index.json"
tar --create --file "$out/fencegate.oci.tar" --directory "$root/oci" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 .
echo "$out/fencegate.oci.tar: fencegate:$version for $platform, $(stat -c %s "$out/fencegate.oci.tar") bytes"
