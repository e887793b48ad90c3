{{/* Names, labels and security settings that all pods of the chart share. */}}
{{- define "llm-auction.name" -}}
{{- if contains "llm-auction" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-llm-auction" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "llm-auction.account" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (printf "%s-operator" (include "llm-auction.name" .)) }}{{ else }}{{ required "serviceAccount.name: name the account, or let the chart create one" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "llm-auction.labels" -}}
app.kubernetes.io/name: llm-auction
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "llm-auction.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Names of role, binding and account of one scope. */}}
{{- define "llm-auction.subject" -}}
- kind: ServiceAccount
  name: {{ include "llm-auction.account" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
