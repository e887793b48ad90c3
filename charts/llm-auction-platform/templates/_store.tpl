{{/* StatefulSet and Service of a trial's store from {root, component, port, settings, container, volumes}. */}}
{{- define "llm-auction.store" -}}
{{- $name := printf "%s-%s" (include "llm-auction.name" .root) .component }}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "llm-auction.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  replicas: 1
  serviceName: {{ $name }}
  selector:
    matchLabels:
      app.kubernetes.io/instance: {{ .root.Release.Name }}
      app.kubernetes.io/component: {{ .component }}
  template:
    metadata:
      labels:
        {{- include "llm-auction.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 60
      {{- include "llm-auction.pod" .root | nindent 6 }}
      containers:
        - name: {{ .component }}
          image: {{ .settings.image }}
          imagePullPolicy: {{ .root.Values.global.imagePullPolicy }}
          {{- .container | nindent 10 }}
          ports:
            - {name: {{ .component | trunc 15 }}, containerPort: {{ .port }}, protocol: TCP}
          startupProbe:
            tcpSocket: {port: {{ .port }}}
            periodSeconds: 2
            failureThreshold: 150
          readinessProbe:
            tcpSocket: {port: {{ .port }}}
          livenessProbe:
            tcpSocket: {port: {{ .port }}}
            periodSeconds: 20
          resources:
            {{- toYaml .settings.resources | nindent 12 }}
          securityContext:
            {{- include "llm-auction.containerSecurity" .root | nindent 12 }}
      volumes:
        {{- .volumes | nindent 8 }}
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .settings.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests: {storage: {{ .settings.size }}}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "llm-auction.labels" .root | nindent 4 }}
spec:
  selector:
    app.kubernetes.io/instance: {{ .root.Release.Name }}
    app.kubernetes.io/component: {{ .component }}
  ports:
    - {name: {{ .component | trunc 15 }}, port: {{ .port }}, targetPort: {{ .port }}, protocol: TCP}
{{- end }}

{{/* A drawn Secret from {root, name, values}: an uninstall keeps it, as it keeps the volumes, links and keys behind it. */}}
{{- define "llm-auction.drawnSecret" -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "llm-auction.labels" .root | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
type: Opaque
stringData:
  {{- toYaml .values | nindent 2 }}
{{- end }}
