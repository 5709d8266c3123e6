#!/usr/bin/env bash
# Packs the program as a kubectl plugin, and writes the manifest with which krew installs it.
#
#   plugin/package.sh archive PROGRAM linux amd64 OUT    writes OUT/fencegate_vX.Y.Z_linux_amd64.tar.gz
#   plugin/package.sh manifest URL OUT                   prints the manifest of the archives in OUT
#
# The plugin is built with the feature `plugin` and linked dynamically: it resolves host names, and a
# kubeconfig works as it is.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=v$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml")

case ${1-} in
archive)
  program=$2 name=fencegate_${version}_$3_$4 out=$(cd "$5" && pwd)
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  install -m 0755 "$program" "$folder/fencegate"
  install -m 0755 "$here/kubectl_complete-fencegate" "$folder/kubectl_complete-fencegate"
  install -m 0644 "$here/../LICENSE" "$folder/LICENSE"
  tar -czf "$out/$name.tar.gz" -C "$folder" LICENSE fencegate kubectl_complete-fencegate
  ;;
manifest)
  url=$2 out=$3
  sum() { if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1; }
  sed -e "s#^  version: .*#  version: $version#" "$here/fencegate.yaml"
  echo "  platforms:"
  for os in linux darwin; do
    for arch in amd64 arm64; do
      name=fencegate_${version}_${os}_$arch.tar.gz
      cat <<EOF
  - selector: {matchLabels: {os: $os, arch: $arch}}
    uri: $url/$name
    sha256: $(sum "$out/$name")
    bin: fencegate
    files:
    - {from: fencegate, to: .}
    - {from: kubectl_complete-fencegate, to: .}
    - {from: LICENSE, to: .}
EOF
    done
  done
  ;;
*)
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
