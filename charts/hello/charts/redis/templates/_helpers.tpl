{{- define "redis.fullname" -}}
{{- printf "%s-redis" (.Release.Name | trunc 57 | trimSuffix "-") }}
{{- end }}

{{- define "redis.secretName" -}}
{{- .Values.auth.existingSecret | default (include "redis.fullname" .) }}
{{- end }}

{{- define "redis.secretKey" -}}
{{- if .Values.auth.existingSecret }}{{ .Values.auth.existingSecretKey }}{{ else }}redis-password{{ end }}
{{- end }}

{{- define "redis.selectorLabels" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "redis.labels" -}}
{{ include "redis.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "redis.image" -}}
{{- with .Values.image -}}
{{- printf "%s/%s:%s" .registry .repository .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}
