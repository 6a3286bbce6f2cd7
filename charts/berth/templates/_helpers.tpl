{{/* Names of objects begin with this. */}}
{{- define "berth.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "berth" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-berth" (.Release.Name | trunc 34 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "berth.selector" -}}
app.kubernetes.io/name: berth
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "berth.labels" -}}
{{ include "berth.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "berth.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* A value of TOML. Helm reads every number as a fraction, which TOML tells from an integer. */}}
{{- define "berth.tomlValue" -}}
{{- $value := .value -}}
{{- if kindIs "string" $value -}}{{ toJson $value }}
{{- else if kindIs "bool" $value -}}{{ $value }}
{{- else if kindIs "float64" $value -}}
{{- if eq (floor $value) $value -}}{{ printf "%.0f" $value }}{{ else }}{{ $value }}{{ end -}}
{{- else if or (kindIs "int" $value) (kindIs "int64" $value) -}}{{ $value }}
{{- else if kindIs "slice" $value -}}
{{- $items := list -}}
{{- range $value -}}{{- $items = append $items (include "berth.tomlValue" (dict "value" . "key" $.key)) -}}{{- end -}}
[{{ join ", " $items }}]
{{- else -}}
{{- fail (printf "config: %s has a value that config.toml cannot hold" .key) -}}
{{- end -}}
{{- end -}}

{{- define "berth.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{/* A table of TOML: its own keys, then the tables in it. */}}
{{- define "berth.toml" -}}
{{- $path := .path -}}
{{- if $path }}
[{{ $path }}]
{{ end -}}
{{- range $key, $value := .table -}}
{{- if not (kindIs "map" $value) -}}
{{ include "berth.tomlKey" $key }} = {{ include "berth.tomlValue" (dict "value" $value "key" $key) }}
{{ end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- if kindIs "map" $value -}}
{{- $name := include "berth.tomlKey" $key -}}
{{- include "berth.toml" (dict "table" $value "path" (ternary (printf "%s.%s" $path $name) $name (ne $path ""))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* /etc/berth/config.toml. The installer puts a node's address in place of the word for it. */}}
{{- define "berth.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- range $key, $instead := dict "root" "" "state" "" "metrics" "metrics" "runtimes" "handlers" "keeper" "" -}}
{{- if hasKey $config $key -}}
{{- fail (printf "config.%s: %s" $key (ternary (printf "use the value %s" $instead) "the units decide this" (ne $instead ""))) -}}
{{- end -}}
{{- end -}}
{{- if hasKey (default dict $config.cri) "socket" -}}{{- fail "config.cri.socket: kubelet is pointed at the default one" -}}{{- end -}}
{{- if hasKey (default dict $config.cgroups) "driver" -}}{{- fail "config.cgroups.driver: use the value cgroupDriver" -}}{{- end -}}
{{- $_ := set $config "version" 1 -}}
{{- $_ := set $config "keeper" (dict "start" false) -}}
{{- $_ := set $config "cgroups" (merge (dict "driver" .Values.cgroupDriver) (default dict $config.cgroups)) -}}
{{- $runtimes := dict -}}
{{- range $name, $handler := .Values.handlers -}}{{- $_ := set $runtimes $name (default dict $handler.settings) -}}{{- end -}}
{{- $_ := set $config "runtimes" $runtimes -}}
{{- with .Values.metrics -}}
{{- if .enabled -}}
{{- $address := default "@NODE_ADDRESS@" .address -}}
{{- if contains ":" $address -}}{{- $address = printf "[%s]" $address -}}{{- end -}}
{{- $metrics := dict "address" (printf "%s:%d" $address (int .port)) "containers" .containers -}}
{{- if .secret.tls -}}
{{- $_ := set $metrics "tls_certificate" "/etc/berth/metrics/tls.crt" -}}
{{- $_ := set $metrics "tls_key" "/etc/berth/metrics/tls.key" -}}
{{- end -}}
{{- if .secret.token -}}{{- $_ := set $metrics "bearer_token_file" "/etc/berth/metrics/token" -}}{{- end -}}
{{- $_ := set $config "metrics" $metrics -}}
{{- end -}}
{{- end -}}
# Made by the chart: change its values.
{{ include "berth.toml" (dict "table" $config "path" "") }}
{{- end -}}

{{/* The alert rules. */}}
{{- define "berth.rules" -}}
{{ .Files.Get "files/prometheus-rules.yaml" | replace "up{job=\"berth\"}" (printf "up{job=\"%s\"}" .Values.rules.job) }}
{{- end -}}
