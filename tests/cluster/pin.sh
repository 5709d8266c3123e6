#!/usr/bin/env bash
# tests/cluster/pin.sh VERSION   writes the Go module of one more control plane, for example v1.33.13: tests/cluster/1.33
#
# `make test-versions` builds it. The modules that Kubernetes keeps in its own repository must be replaced by the ones
# that were released with it.
set -euo pipefail
version=${1-}
if [[ ! $version =~ ^v1\.([0-9]+)\.([0-9]+)$ ]]; then
  echo "tests/cluster/pin.sh: '$version' is not a Kubernetes version such as v1.33.13" >&2
  exit 2
fi
staged=v0.${BASH_REMATCH[1]}.${BASH_REMATCH[2]}
folder=$(dirname "${BASH_SOURCE[0]}")/1.${BASH_REMATCH[1]}

mod=$(go mod download -json "k8s.io/kubernetes@$version" | awk -F '"' '$2 == "GoMod" {print $4}')
replaced=$(awk '$2 == "=>" && $3 ~ /^\.\/staging\// {print $1} $1 == "replace" && $4 ~ /^\.\/staging\// {print $2}' "$mod")

# A module that is not complete is never left behind.
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
{
  echo "// Kubernetes 1.${BASH_REMATCH[1]} for \`make test-versions\`. tests/cluster/pin.sh writes this file."
  echo "module fencegate.dev/tests/cluster/1.${BASH_REMATCH[1]}"
  echo "go 1.26.0"
  for module in $replaced; do
    echo "replace $module => $module $staged"
  done
} >"$new/go.mod"
for tool in kube-apiserver kube-controller-manager kube-scheduler kubectl; do
  (cd "$new" && go get -tool "k8s.io/kubernetes/cmd/$tool@$version")
done
rm -rf "$folder"
mkdir "$folder"
cp "$new/go.mod" "$new/go.sum" "$folder"
