{{/* An object of the manifests, in this release's namespace. The manifests are the one source; the chart only turns what values turn. */}}
{{- define "fencegate.file" -}}
{{- .root.Files.Get (printf "files/%s.yaml" .name) | replace "fencegate-system" .root.Release.Namespace -}}
{{- end -}}
