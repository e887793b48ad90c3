{{- define "llm-auction.account" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (printf "%s-operator" (include "llm-auction.name" .)) }}{{ else }}{{ required "serviceAccount.name: name the account, or let the chart create one" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "llm-auction.subject" -}}
- kind: ServiceAccount
  name: {{ include "llm-auction.account" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* JSON of the namespaces that the operator reconciles; empty: all. */}}
{{- define "llm-auction.namespaces" -}}
{{- if .Values.clusterWide }}
{{- with .Values.namespaces }}{{ fail "namespaces: leave it empty with clusterWide, or set clusterWide to false" }}{{ end -}}
[]
{{- else }}{{ .Values.namespaces | default (list .Release.Namespace) | toJson }}{{ end }}
{{- end }}
