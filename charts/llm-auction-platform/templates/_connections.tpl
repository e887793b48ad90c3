{{/* How pods reach the event log, the database, the object store and the keys: one place for all of them. */}}

{{/* Name of the Secret with the keys; empty if each AuctionService brings its own. */}}
{{- define "llm-auction.keys" -}}
{{- if or .Values.secrets.generate .Values.secrets.externalSecret.enabled }}
{{- .Values.secrets.name | default (printf "%s-keys" (include "llm-auction.name" .)) }}
{{- else }}{{ .Values.secrets.name }}{{ end }}
{{- end }}

{{- define "llm-auction.keysEnv" -}}
{{- with include "llm-auction.keys" . }}
- name: LLM_AUCTION_SECRET
  valueFrom: {secretKeyRef: {name: {{ . }}, key: secret}}
{{- if $.Values.secrets.rotating }}
- name: LLM_AUCTION_OTHER_SECRETS
  valueFrom: {secretKeyRef: {name: {{ . }}, key: other-secrets}}
{{- end }}
{{- end }}
{{- end }}

{{- define "llm-auction.adminEnv" -}}
{{- with include "llm-auction.keys" . }}
- name: LLM_AUCTION_ADMIN_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: admin-key}}
{{- end }}
{{- end }}

{{/* YAML: name and key of the Secret with the database's URL; empty without a database. */}}
{{- define "llm-auction.database" -}}
{{- $database := .Values.database }}
{{- if eq $database.provider "existing" }}
{{- toYaml $database.secret }}
{{- else if eq $database.provider "trial" -}}
{name: {{ include "llm-auction.name" . }}-postgres, key: database}
{{- else if eq $database.provider "cloudnative-pg" -}}
{name: {{ include "llm-auction.name" . }}-db-app, key: uri}
{{- end }}
{{- end }}

{{- define "llm-auction.databaseEnv" -}}
{{- with include "llm-auction.database" . }}
- name: LLM_AUCTION_DATABASE
  valueFrom:
    secretKeyRef:
      {{- . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "llm-auction.eventLogEnv" -}}
{{- $log := .Values.eventLog }}
{{- $name := include "llm-auction.name" . }}
{{- if ne $log.provider "none" }}
- {name: LLM_AUCTION_LOG, value: kafka}
{{- end }}
{{- if eq $log.provider "trial" }}
- {name: LLM_AUCTION_KAFKA_SERVERS, value: "{{ $name }}-kafka:9092"}
{{- else if eq $log.provider "strimzi" }}
- {name: LLM_AUCTION_KAFKA_SERVERS, value: "{{ $name }}-kafka-bootstrap:9093"}
- {name: LLM_AUCTION_KAFKA_PROTOCOL, value: SSL}
- {name: LLM_AUCTION_KAFKA_CA_FILE, value: /etc/kafka/authority/ca.crt}
- {name: LLM_AUCTION_KAFKA_CERTIFICATE_FILE, value: /etc/kafka/user/user.crt}
- {name: LLM_AUCTION_KAFKA_KEY_FILE, value: /etc/kafka/user/user.key}
{{- else if eq $log.provider "existing" }}
- {name: LLM_AUCTION_KAFKA_SERVERS, value: {{ $log.existing.servers | quote }}}
- {name: LLM_AUCTION_KAFKA_PROTOCOL, value: {{ $log.existing.protocol }}}
{{- if $log.existing.authoritySecret }}
- {name: LLM_AUCTION_KAFKA_CA_FILE, value: /etc/kafka/authority/ca.crt}
{{- end }}
{{- with $log.existing.userSecret }}
- name: LLM_AUCTION_KAFKA_USER
  valueFrom: {secretKeyRef: {name: {{ . }}, key: user}}
- name: LLM_AUCTION_KAFKA_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ . }}, key: password}}
{{- end }}
{{- end }}
{{- end }}

{{/* YAML list of {name, secretName, mountPath}: the certificates of the event log. */}}
{{- define "llm-auction.certificates" -}}
{{- $log := .Values.eventLog }}
{{- $name := include "llm-auction.name" . }}
{{- if eq $log.provider "strimzi" }}
- {name: kafka-authority, secretName: {{ $name }}-cluster-ca-cert, mountPath: /etc/kafka/authority}
- {name: kafka-user, secretName: {{ $name }}, mountPath: /etc/kafka/user}
{{- else if and (eq $log.provider "existing") $log.existing.authoritySecret }}
- {name: kafka-authority, secretName: {{ $log.existing.authoritySecret }}, mountPath: /etc/kafka/authority}
{{- end }}
{{- end }}

{{- define "llm-auction.certificateVolumes" -}}
{{- range include "llm-auction.certificates" . | fromYamlArray }}
- name: {{ .name }}
  secret: {secretName: {{ .secretName }}}
{{- end }}
{{- end }}

{{- define "llm-auction.certificateMounts" -}}
{{- range include "llm-auction.certificates" . | fromYamlArray }}
- {name: {{ .name }}, mountPath: {{ .mountPath }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "llm-auction.objectStoreEnv" -}}
{{- $store := .Values.objectStore }}
{{- $secret := $store.existing.secret }}
{{- if eq $store.provider "trial" }}
{{- $secret = printf "%s-object-store" (include "llm-auction.name" .) }}
- {name: AWS_ENDPOINT_URL, value: "http://{{ include "llm-auction.name" . }}-object-store:7070"}
- {name: AWS_DEFAULT_REGION, value: us-east-1}
{{- else if eq $store.provider "existing" }}
{{- with $store.existing.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with $store.existing.region }}
- {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- if and $secret (ne $store.provider "none") }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ . }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* The routers' Service that clients outside and `helm test` call; empty without routers. */}}
{{- define "llm-auction.service" -}}
{{- if .Values.expose.service }}{{ .Values.expose.service }}
{{- else if .Values.routers.enabled }}{{ include "llm-auction.name" . }}-router{{ end }}
{{- end }}

{{/* s3://bucket/prefix that holds the lake and the models; empty without an object store. */}}
{{- define "llm-auction.storeUrl" -}}
{{- if eq .Values.objectStore.provider "trial" }}s3://auction
{{- else if eq .Values.objectStore.provider "existing" }}{{ .Values.objectStore.existing.url | trimSuffix "/" }}{{ end }}
{{- end }}

{{- define "llm-auction.lake" -}}
{{- with .Values.workers.lake.url }}{{ . }}{{ else }}{{ with include "llm-auction.storeUrl" . }}{{ . }}/lake{{ end }}{{ end }}
{{- end }}

{{/* The lake's address and credentials. */}}
{{- define "llm-auction.lakeEnv" -}}
{{- with include "llm-auction.lake" . }}
- {name: LLM_AUCTION_LAKE, value: {{ . | quote }}}
{{- include "llm-auction.objectStoreEnv" $ }}
{{- end }}
{{- end }}

{{/* The same for routers, which erase readers from it; a folder is not on their volumes. */}}
{{- define "llm-auction.erasureEnv" -}}
{{- if hasPrefix "s3://" (include "llm-auction.lake" .) }}{{ include "llm-auction.lakeEnv" . }}{{ end }}
{{- end }}

{{/* A value of a Secret that the chart generates: what the cluster has, else `length` random characters. */}}
{{- define "llm-auction.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret }}
{{- if and $found (hasKey $found.data .key) }}{{ index $found.data .key | b64dec }}{{ else }}{{ randAlphaNum .length }}{{ end }}
{{- end }}

{{/* Of pods that share a component: not all on one machine, nor in one zone. */}}
{{- define "llm-auction.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        app.kubernetes.io/instance: {{ $.root.Release.Name }}
        app.kubernetes.io/component: {{ $.component }}
  {{- end }}
{{- end }}

{{/* YAML list of the variables `known` (YAML) and `own`, which win where both name one; empty without any. */}}
{{- define "llm-auction.variables" -}}
{{- $names := list }}
{{- $all := list }}
{{- range .own }}{{ $names = append $names .name }}{{ end }}
{{- range fromYamlArray .known }}{{ if not (has .name $names) }}{{ $all = append $all . }}{{ end }}{{ end }}
{{- with concat $all .own }}{{ toYaml . }}{{ end }}
{{- end }}
