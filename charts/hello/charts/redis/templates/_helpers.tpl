{{- define "redis.fullname" -}}
{{- printf "%s-redis" (.Release.Name | trunc 57 | trimSuffix "-") }}
{{- end }}

{{- define "redis.secretName" -}}
{{- .Values.auth.existingSecret | default (include "redis.fullname" .) }}
{{- end }}

{{- define "redis.secretKey" -}}
{{- if .Values.auth.existingSecret }}{{ .Values.auth.existingSecretKey }}{{ else }}redis-password{{ end }}
{{- end }}

{{- define "redis.tlsSecretName" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "redis.fullname" .)) }}
{{- end }}

{{- define "redis.selectorLabels" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* What a pod must be labelled with to get through the NetworkPolicy. */ -}}
{{- define "redis.clientLabels" -}}
{{ include "redis.fullname" . }}-client: "true"
{{- end }}

{{- define "redis.labels" -}}
{{ include "redis.selectorLabels" . }}
app.kubernetes.io/component: database
app.kubernetes.io/part-of: hello
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* A reference out of (dict "root" $ "image" .Values.…). */ -}}
{{- define "redis.image" -}}
{{- $registry := ((.root.Values.global).imageRegistry) | default .image.registry -}}
{{- printf "%s/%s:%s" $registry .image.repository .image.tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* Names that the certificate is for. */ -}}
{{- define "redis.names" -}}
{{- $name := include "redis.fullname" . -}}
{{- list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) "localhost" | toJson }}
{{- end }}

{{- /* redis-cli as a probe: PING needs no password; of the certificate the chain is checked, not the name. */ -}}
{{- define "redis.cli" -}}
redis-cli{{ if .Values.tls.enabled }}, --tls, --cacert, /tls/ca.crt{{ end }}
{{- end }}

{{- define "redis.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}
