{{/*
The objects of the file files/<name>.yaml, in the namespace of the release. Kustomize installs the
same files; the templates set only the fields that depend on values.

A file that is missing or cannot be parsed fails the rendering: Helm itself would render nothing.
*/}}
{{- define "fencegate.objects" -}}
{{- $namespace := .root.Release.Namespace }}
{{- $file := printf "files/%s.yaml" .name }}
{{- range regexSplit "(?m)^---\\s*$" (.root.Files.Get $file | replace "fencegate-system" $namespace) -1 }}
{{- $object := fromYaml . }}
{{- if not $object.kind }}{{ fail (printf "%s: not a Kubernetes object: %v" $file $object) }}{{ end }}
---
{{ toYaml $object }}
{{- end }}
{{- end -}}
