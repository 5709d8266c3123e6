{{/*
The objects of the file files/<name>.yaml, in the namespace of the release, with the labels and
annotations that all objects have. Kustomize installs the same files; the templates set only the
fields that depend on values.

A file that is missing or cannot be parsed fails the rendering: Helm itself would render nothing.
*/}}
{{- define "fencegate.objects" -}}
{{- $namespace := .root.Release.Namespace }}
{{- $file := printf "files/%s.yaml" .name }}
{{- range regexSplit "(?m)^---\\s*$" (.root.Files.Get $file | replace "fencegate-system" $namespace) -1 }}
{{- $object := fromYaml . }}
{{- if not $object.kind }}{{ fail (printf "%s: not a Kubernetes object: %v" $file $object) }}{{ end }}
{{- $metadata := $object.metadata }}
{{- $_ := set $metadata "labels" (merge (dict) ($metadata.labels | default dict) (include "fencegate.labels" $.root | fromYaml)) }}
{{- with $.root.Values.commonAnnotations }}
{{- $_ := set $metadata "annotations" (merge (dict) ($metadata.annotations | default dict) .) }}
{{- end }}
---
{{ toYaml $object }}
{{- end }}
{{- end -}}

{{/* The labels of objects. */}}
{{- define "fencegate.labels" -}}
{{ include "fencegate.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The labels of pods: those that do not change without the pods. */}}
{{- define "fencegate.podLabels" -}}
{{- $recommended := dict
  "app.kubernetes.io/name" "fencegate"
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/component" "gate"
  "app.kubernetes.io/part-of" "fencegate" }}
{{- toYaml (merge $recommended .Values.commonLabels) }}
{{- end -}}

{{/* The image of the gate, by its digest if there is one. */}}
{{- define "fencegate.image" -}}
{{- $repository := .Values.image.repository }}
{{- with .Values.global.imageRegistry }}
{{- /* Instead of the registry of the repository, which is a part with a dot or a port. */}}
{{- $path := regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" ($repository | default "fencegate") "" }}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $path }}
{{- end }}
{{- if not $repository }}
{{- fail "image.repository is not set, and this chart has no image of its own: build one with `make image`, push it to your registry, and set for example image.repository=registry.example.com/fencegate (or image.repository=fencegate, if you import it on your nodes)" }}
{{- end }}
{{- with .Values.image.digest }}
{{- printf "%s@%s" $repository . }}
{{- else }}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end -}}

{{/* `imagePullSecrets` of a pod, as a list. */}}
{{- define "fencegate.pullSecrets" -}}
{{- $secrets := .Values.imagePullSecrets }}
{{- range .Values.global.imagePullSecrets }}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}
{{- end }}
{{- toYaml ($secrets | uniq) }}
{{- end -}}

{{/*
Where a pod may run. `own` leaves only what the values say; otherwise they are added to what the
manifests have.
*/}}
{{- define "fencegate.place" -}}
{{- $pod := .pod }}
{{- $values := .values }}
{{- $affinity := $values.affinity }}
{{- if eq $values.placement "own" }}
{{- $_ := unset $pod "tolerations" }}
{{- $_ := unset $pod "topologySpreadConstraints" }}
{{- else if eq $values.placement "control-plane" }}
{{- if $affinity.nodeAffinity }}
{{- fail "affinity.nodeAffinity: placement control-plane has its own; set placement to own, or leave it out" }}
{{- end }}
{{- $isControlPlane := dict "matchExpressions" (list (dict "key" "node-role.kubernetes.io/control-plane" "operator" "Exists")) }}
{{- $required := dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" (list $isControlPlane)) }}
{{- $affinity = merge (dict "nodeAffinity" $required) $affinity }}
{{- $taint := dict "key" "node-role.kubernetes.io/control-plane" "operator" "Exists" "effect" "NoSchedule" }}
{{- $_ := set $pod "tolerations" (append ($pod.tolerations | default list) $taint) }}
{{- end }}
{{- with $affinity }}{{ $_ := set $pod "affinity" . }}{{ end }}
{{- with $values.nodeSelector }}{{ $_ := set $pod "nodeSelector" . }}{{ end }}
{{- range $field := list "tolerations" "topologySpreadConstraints" }}
{{- with get $values $field }}{{ $_ := set $pod $field (concat (get $pod $field | default list) .) }}{{ end }}
{{- end }}
{{- end -}}

{{/* The mode of each of the other doors that is not off. Unquoted, YAML reads off as false. */}}
{{- define "fencegate.doors" -}}
{{- $doors := dict }}
{{- range $door := list "nodes" "pods" "attachments" }}
{{- $mode := get $.Values.doors $door | toString }}
{{- if has $mode (list "enforce" "warn") }}{{ $_ := set $doors $door $mode }}{{ end }}
{{- end }}
{{- toYaml $doors }}
{{- end -}}

{{/*
The entries of the other doors, from the patch that kustomize applies. A door that only warns stops
nothing while the gate is down. The pods that may hold the taint are those of the configuration.
*/}}
{{- define "fencegate.doorEntries" -}}
{{- $doors := include "fencegate.doors" . | fromYaml }}
{{- $file := "files/doors/webhooks.yaml" }}
{{- $entries := list }}
{{- range .Files.Get $file | replace "fencegate-system" .Release.Namespace | fromYamlArray }}
{{- $entry := .value }}
{{- $mode := get $doors (trimSuffix ".fencegate.dev" $entry.name) }}
{{- if $mode }}
{{- if eq $mode "warn" }}{{ $_ := set $entry "failurePolicy" "Ignore" }}{{ end }}
{{- if eq $entry.name "pods.fencegate.dev" }}
{{- $release := $.Values.config.release | default dict }}
{{- if kindIs "slice" $release.guardedOwners }}
{{- $guarded := list }}
{{- range $release.guardedOwners }}
{{- $guarded = append $guarded (printf "['%s', '%s']" (.group | default "") .kind) }}
{{- end }}
{{- $default := "[['apps', 'StatefulSet']]" }}
{{- $condition := index $entry.matchConditions 0 }}
{{- if not (contains $default $condition.expression) }}{{ fail (printf "%s: %s is missing" $file $default) }}{{ end }}
{{- $_ := set $condition "expression" ($condition.expression | replace $default (printf "[%s]" (join ", " $guarded))) }}
{{- end }}
{{- end }}
{{- $entries = append $entries $entry }}
{{- end }}
{{- end }}
{{- if ne (len $entries) (len $doors) }}{{ fail (printf "%s: it does not have an entry for each door" $file) }}{{ end }}
{{- toYaml $entries }}
{{- end -}}
