{{/* A hook's Job from {root, name, hook, weight, image, command, args, env}; it is replaced by the next run. */}}
{{- define "llm-auction.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "llm-auction.name" .root }}-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "llm-auction.labels" .root | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: {{ .attempts }}
  template:
    metadata:
      labels:
        {{- include "llm-auction.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .name }}
    spec:
      restartPolicy: OnFailure
      automountServiceAccountToken: false
      {{- include "llm-auction.pod" .root | nindent 6 }}
      containers:
        - name: {{ .name }}
          image: {{ .image }}
          imagePullPolicy: {{ .root.Values.global.imagePullPolicy }}
          command: {{ toJson .command }}
          args: {{ toJson .args }}
          env:
            - {name: HOME, value: /tmp}
            {{- .env | nindent 12 }}
          resources:
            requests: {cpu: 100m, memory: {{ .memory }}}
            limits: {memory: {{ .memory }}}
          securityContext:
            {{- include "llm-auction.containerSecurity" .root | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
      volumes:
        - name: tmp
          emptyDir: {}
{{- end }}
