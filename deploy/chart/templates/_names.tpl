{{- define "routed.labels" -}}
app.kubernetes.io/name: routed
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: routed
{{- end }}

{{- define "routed.selector" -}}
app.kubernetes.io/name: routed
app.kubernetes.io/component: agent
{{- end }}

{{- define "routed.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
