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

{{- define "hello.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "hello.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "hello.selectorLabels" -}}
app.kubernetes.io/name: {{ include "hello.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hello.testLabels" -}}
app.kubernetes.io/name: {{ include "hello.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hello.testName" -}}
{{- include "hello.fullname" . | trunc 51 }}-test-ready
{{- end }}

{{- define "hello.labels" -}}
{{ include "hello.selectorLabels" . }}
app.kubernetes.io/component: server
app.kubernetes.io/part-of: hello
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "hello.image" -}}
{{- $registry := ((.Values.global).imageRegistry) | default .Values.image.registry -}}
{{- with .Values.image -}}
{{- printf "%s/%s:%s" $registry .repository (.tag | default $.Chart.AppVersion) }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{- /* The part of a pod spec that all of the chart's pods share. */ -}}
{{- define "hello.pod" -}}
automountServiceAccountToken: false
# Otherwise a Service named `redis` would inject REDIS_PORT=tcp://….
enableServiceLinks: false
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with concat ((.Values.global).imagePullSecrets | default list) .Values.imagePullSecrets | uniq }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "hello.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- /* The egress rule that lets names be resolved. */ -}}
{{- define "hello.dns" -}}
- to: {{- toYaml .Values.networkPolicy.dnsTo | nindent 4 }}
  ports:
    - { port: {{ .Values.networkPolicy.dnsPort }}, protocol: UDP }
    - { port: {{ .Values.networkPolicy.dnsPort }}, protocol: TCP }
{{- end }}

{{- /* Bytes of a quantity such as 64Mi, or of a size of Redis' such as 64mb. */ -}}
{{- define "hello.bytes" -}}
{{- $units := dict "ki" 1024 "kb" 1024 "mi" 1048576 "mb" 1048576 "gi" 1073741824 "gb" 1073741824 -}}
{{- $unit := regexFind "[a-z]+$" (lower .) -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $units $unit) }}
{{- end }}

{{- /* Where Redis is and what it takes to get in, as YAML; a secret is { name, key }, and empty if there is none. */ -}}
{{- define "hello.redis" -}}
{{- if .Values.redis.enabled -}}
{{- with .Subcharts.redis -}}
host: {{ include "redis.fullname" . }}
port: {{ .Values.service.port }}
username: {{ .Values.auth.username }}
password: { name: {{ include "redis.secretName" . }}, key: {{ include "redis.secretKey" . }} }
tls: {{ .Values.tls.enabled }}
{{- if .Values.tls.enabled }}
ca: { name: {{ include "redis.tlsSecretName" . }}, key: ca.crt }
{{- end }}
{{- end }}
{{- else -}}
{{- with .Values.externalRedis -}}
host: {{ .host | quote }}
port: {{ .port }}
username: {{ .username | quote }}
{{- if or .existingSecret .externalSecret.enabled }}
password: { name: {{ .existingSecret | default (printf "%s-redis" (include "hello.fullname" $)) }}, key: {{ .existingSecretKey }} }
{{- end }}
tls: {{ .tls.enabled }}
{{- if .tls.caSecret }}
ca: { name: {{ .tls.caSecret }}, key: {{ .tls.caKey }} }
{{- end }}
{{- if .tls.clientSecret }}
cert: { name: {{ .tls.clientSecret }}, key: {{ .tls.clientCertKey }} }
key: { name: {{ .tls.clientSecret }}, key: {{ .tls.clientKeyKey }} }
{{- end }}
{{- with .sentinel }}
sentinels: {{ toJson .nodes }}
master: {{ .master | quote }}
sentinelUsername: {{ .username | quote }}
{{- if .existingSecret }}
sentinelPassword: { name: {{ .existingSecret }}, key: {{ .existingSecretKey }} }
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Values that contradict each other, each with what to do; the schema has the rest. */ -}}
{{- define "hello.validate" -}}
{{- $wrong := list -}}
{{- with .Values.externalRedis -}}
{{- if $.Values.redis.enabled -}}
{{- if or .host .sentinel.nodes .existingSecret .tls.enabled .externalSecret.enabled }}{{ $wrong = append $wrong "externalRedis is set, but redis.enabled is true: set it to false to use your own Redis" }}{{ end -}}
{{- else -}}
{{- if not (or .host .sentinel.nodes) }}{{ $wrong = append $wrong "redis.enabled is false: externalRedis.host or externalRedis.sentinel.nodes is needed" }}{{ end -}}
{{- if and .host .sentinel.nodes }}{{ $wrong = append $wrong "externalRedis.host and externalRedis.sentinel.nodes exclude each other: Sentinel names the host" }}{{ end -}}
{{- if and .existingSecret .externalSecret.enabled }}{{ $wrong = append $wrong "externalRedis.existingSecret and externalRedis.externalSecret exclude each other: the password has one source" }}{{ end -}}
{{- if and .username (not (or .existingSecret .externalSecret.enabled)) }}{{ $wrong = append $wrong "externalRedis.username needs externalRedis.existingSecret or externalRedis.externalSecret: an ACL user has a password" }}{{ end -}}
{{- if and .sentinel.username (not .sentinel.existingSecret) }}{{ $wrong = append $wrong "externalRedis.sentinel.username needs externalRedis.sentinel.existingSecret: an ACL user has a password" }}{{ end -}}
{{- if and (or .tls.caSecret .tls.clientSecret) (not .tls.enabled) }}{{ $wrong = append $wrong "externalRedis.tls has certificates, but externalRedis.tls.enabled is false" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}{{ $wrong = append $wrong (printf "autoscaling.minReplicas (%v) is above autoscaling.maxReplicas (%v)" .minReplicas .maxReplicas) }}{{ end -}}
{{- end -}}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) }}{{ $wrong = append $wrong "serviceAccount.create is false: serviceAccount.name is needed" }}{{ end -}}
{{- with .Values.redis -}}
{{- if .enabled -}}
{{- $limit := dig "resources" "limits" "memory" "" . -}}
{{- if and (regexMatch "^[0-9]+(Ki|Mi|Gi)$" (toString $limit)) (gt (mul 2 (include "hello.bytes" .maxmemory | int64)) (include "hello.bytes" $limit | int64)) }}{{ $wrong = append $wrong (printf "redis.maxmemory (%s) is above half of redis.resources.limits.memory (%s): the server would be killed while it rewrites its append-only file" .maxmemory $limit) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $wrong }}{{ fail (printf "\nvalues of chart hello:\n- %s" (join "\n- " $wrong)) }}{{ end -}}
{{- end }}
