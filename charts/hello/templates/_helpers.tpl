{{- define "hello.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "hello.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "hello.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "hello.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "hello.selectorLabels" -}}
app.kubernetes.io/name: {{ include "hello.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hello.labels" -}}
{{ include "hello.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "hello.image" -}}
{{- with .Values.image -}}
{{- printf "%s/%s:%s" .registry .repository (.tag | default $.Chart.AppVersion) }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{- /* Where Redis is: host, port, username, secret and key of the password, as YAML. */ -}}
{{- define "hello.redis" -}}
{{- if .Values.redis.enabled -}}
{{- with .Subcharts.redis -}}
host: {{ include "redis.fullname" . }}
port: {{ .Values.service.port }}
username: ""
secret: {{ include "redis.secretName" . }}
key: {{ include "redis.secretKey" . }}
{{- end }}
{{- else -}}
{{- with .Values.externalRedis -}}
host: {{ required "externalRedis.host is needed when redis.enabled is false" .host | quote }}
port: {{ .port }}
username: {{ .username | quote }}
{{- if and .username (not .existingSecret) }}{{ fail "externalRedis.username needs externalRedis.existingSecret" }}{{ end }}
secret: {{ .existingSecret | quote }}
key: {{ .existingSecretKey | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "hello.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "hello.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}
