#!/bin/sh
# What happens on a node when Berth takes the place of its container runtime, and when it leaves.
#
#   host.sh switch       on the host, by berth-switch.service: what ends the very pod that asks for it
#
# install.sh reads it as well. The node's file system lies at $HOST, and all that is remembered in
# $HOST/var/lib/berth-install:
#
#   phase          switching, installed, restoring or backing-out; absent: nothing of ours is in force
#   failed         hash of what could not be installed, and the step; it is not tried again
#   settings       shell assignments; the way back uses what the way there used
#   new/files/     what is to be installed, whole before one file of it is put in place
#   last/files/    what an upgrade replaces, for when it fails
#   backup/list    what was there: "file PATH", "none PATH", "dir PATH" (made by us), "unit NAME ENABLED ACTIVE"
#   backup/files/  the files of that list
#
# Whatever interrupts it, running it again ends at the same place: a path is listed before it is changed, files are
# renamed into place, and berth-switch.service is enabled while the node is between two runtimes.
set -eu

HOST="${HOST-/host}"
PLACE=/var/lib/berth-install
S="$HOST$PLACE"
ENDPOINT=unix:///run/berth/cri.sock
SWITCH=berth-switch.service
SETTINGS="HASH ADOPTED BIN_DIR UNIT_DIR RUNTIME_UNIT RUNTIME_ENDPOINT KUBELET_UNIT KUBELET_CONFIG KUBELET_FLAGS \
CGROUP_DRIVER WAIT_SECONDS REMOVE_IMAGES"

say() { printf '%s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# on_host COMMAND…: runs it with the host's programs and namespaces.
on_host() {
    if [ -n "$HOST" ]; then nsenter -t 1 -m -u -i -n -p -- "$@"; else "$@"; fi
}

# wait_for SECONDS COMMAND…: until it succeeds.
wait_for() {
    tries="$1"
    shift
    while ! "$@"; do
        [ "$tries" -gt 0 ] || return 1
        tries=$((tries - 1))
        sleep 1
    done
}

# write PATH TEXT: whole or not at all.
write() {
    printf '%s\n' "$2" >"$1.tmp"
    mv -f "$1.tmp" "$1"
}

there() { [ -e "$1" ] || [ -L "$1" ]; }
phase() { cat "$S/phase" 2>/dev/null || true; }

# ---- what was there ------------------------------------------------------------------------------------------------

listed() { grep -qxF "$1" "$S/backup/list" 2>/dev/null; }

# note LINE: adds a line to the list.
note() {
    { cat "$S/backup/list" 2>/dev/null || true; printf '%s\n' "$1"; } >"$S/backup/list.tmp"
    mv -f "$S/backup/list.tmp" "$S/backup/list"
}

# back_up PATH: remembers what is at a path of the host, once.
back_up() {
    if listed "file $1" || listed "none $1"; then return 0; fi
    mkdir -p "$S/backup/files$(dirname "$1")"
    parent="$(dirname "$1")"
    made=
    while ! there "$HOST$parent"; do
        made="$parent $made"
        parent="$(dirname "$parent")"
    done
    for parent in $made; do
        listed "dir $parent" || note "dir $parent"
    done
    if there "$HOST$1"; then
        cp -a "$HOST$1" "$S/backup/files$1.tmp"
        mv -f "$S/backup/files$1.tmp" "$S/backup/files$1"
        note "file $1"
    else
        note "none $1"
    fi
}

# back_up_unit NAME: remembers whether it is started at boot, and whether it runs.
back_up_unit() {
    ! grep -q "^unit $1 " "$S/backup/list" || return 0
    enabled=no active=no
    [ "$(on_host systemctl is-enabled "$1" 2>/dev/null)" != enabled ] || enabled=yes
    ! on_host systemctl is-active --quiet "$1" || active=yes
    note "unit $1 $enabled $active"
}

# restore PATH: puts back what was there.
restore() {
    if listed "file $1"; then
        mkdir -p "$HOST$(dirname "$1")"
        cp -a "$S/backup/files$1" "$HOST$1.berth"
        mv -f "$HOST$1.berth" "$HOST$1"
    else
        rm -f "$HOST$1"
    fi
}

# restore_all: kubelet's files first, for others may have changed them since.
restore_all() {
    restore_kubelet
    sed -n 's/^\(file\|none\) //p' "$S/backup/list" | while read -r path; do
        case "$path" in "$KUBELET_CONFIG" | "$KUBELET_FLAGS") ;; *) restore "$path" ;; esac
    done
    sed -n 's/^dir //p' "$S/backup/list" | sort -r | while read -r path; do
        # Somebody else's files stay, and so does their directory.
        rmdir "$HOST$path" 2>/dev/null || true
    done
}

# ---- kubelet's configuration ---------------------------------------------------------------------------------------

# line FILE KEY: the value of a top-level key as it is written, empty without one.
line() { KEY="$2:" awk 'index($0, ENVIRON["KEY"]) == 1 { print substr($0, length(ENVIRON["KEY"]) + 1); exit }' "$1" | sed 's/^ *//'; }

# set_line FILE KEY VALUE: an empty value removes the line.
set_line() {
    [ "$(line "$1" "$2")" != "$3" ] || return 0
    cp -p "$1" "$1.berth"
    KEY="$2:" VALUE="$3" awk '
        BEGIN { key = ENVIRON["KEY"]; value = ENVIRON["VALUE"] }
        index($0, key) == 1 { if (value != "" && !done) print key " " value; done = 1; next }
        { print }
        END { if (value != "" && !done) print key " " value }' "$1" >"$1.berth"
    mv -f "$1.berth" "$1"
}

# flag FILE: the value of the runtime's flag, which wins over the configuration; empty without one.
flag() { [ ! -e "$1" ] || sed -n 's|.*--container-runtime-endpoint[= ]\([^ "'\'']*\).*|\1|p' "$1" | head -n 1; }

set_flag() {
    [ -n "$2" ] && [ "$(flag "$1")" != "$2" ] || return 0
    cp -p "$1" "$1.berth"
    sed 's|\(--container-runtime-endpoint\)[= ][^ "'\'']*|\1='"$2"'|' "$1" >"$1.berth"
    mv -f "$1.berth" "$1"
}

# runtime_of_kubelet: where kubelet looks for its runtime.
runtime_of_kubelet() {
    found="$(flag "$HOST$KUBELET_FLAGS")"
    [ -n "$found" ] || found="$(line "$HOST$KUBELET_CONFIG" containerRuntimeEndpoint | tr -d "\"' ")"
    printf '%s\n' "$found"
}

point_kubelet() {
    set_line "$HOST$KUBELET_CONFIG" containerRuntimeEndpoint "$ENDPOINT"
    set_line "$HOST$KUBELET_CONFIG" cgroupDriver "$CGROUP_DRIVER"
    [ -z "$(flag "$HOST$KUBELET_FLAGS")" ] || set_flag "$HOST$KUBELET_FLAGS" "$ENDPOINT"
    write "$S/edited" "$(kubelet_sum)"
}

kubelet_sum() { cat "$HOST$KUBELET_CONFIG" "$HOST$KUBELET_FLAGS" 2>/dev/null | sha256sum | cut -d' ' -f1; }

# restore_kubelet: the files as they were; if they were changed since, only the lines that are ours.
restore_kubelet() {
    listed "file $KUBELET_CONFIG" || return 0
    old="$S/backup/files"
    if [ ! -e "$S/edited" ] || [ "$(cat "$S/edited")" = "$(kubelet_sum)" ]; then
        for path in "$KUBELET_CONFIG" "$KUBELET_FLAGS"; do
            if listed "file $path"; then restore "$path"; fi
        done
        return 0
    fi
    say "kubelet's configuration has changed since: only what names the runtime is put back"
    if [ -e "$HOST$KUBELET_CONFIG" ]; then
        for key in containerRuntimeEndpoint cgroupDriver; do
            set_line "$HOST$KUBELET_CONFIG" "$key" "$(line "$old$KUBELET_CONFIG" "$key")"
        done
    fi
    if [ -e "$HOST$KUBELET_FLAGS" ]; then set_flag "$HOST$KUBELET_FLAGS" "$(flag "$old$KUBELET_FLAGS")"; fi
}

# ---- files and services --------------------------------------------------------------------------------------------

# files_in DIR: the paths below it, as they are on the host.
files_in() { [ ! -d "$1" ] || (cd "$1" && find . -type f | sed 's/^\.//' | LC_ALL=C sort); }

# put DIR: renames copies of its files into place; a program that runs is replaced, never written to.
put() {
    files_in "$1" | while read -r path; do
        if cmp -s "$1$path" "$HOST$path" && [ "$(stat -c %a "$1$path")" = "$(stat -c %a "$HOST$path")" ]; then continue; fi
        mkdir -p "$HOST$(dirname "$path")"
        cp -p "$1$path" "$HOST$path.berth"
        mv -f "$HOST$path.berth" "$HOST$path"
    done
}

serves() { on_host "$BIN_DIR/berth" status >/dev/null 2>&1; }
kubelet_runs() { on_host systemctl is-active --quiet "$KUBELET_UNIT"; }

# restart_berth: containers live on; the keeper replaces itself in place.
restart_berth() {
    on_host systemctl daemon-reload || return 1
    on_host systemctl enable berth-keeper.service berth.service || return 1
    if on_host systemctl is-active --quiet berth-keeper.service; then
        on_host systemctl reload berth-keeper.service || return 1
    else
        on_host systemctl start berth-keeper.service || return 1
    fi
    on_host systemctl restart berth.service || return 1
    wait_for "$WAIT_SECONDS" serves
}

# end_pods ENDPOINT: all of a runtime's pods, once more if some would not go.
end_pods() {
    for try in 1 2 3; do
        if on_host "$PLACE/crictl" --timeout 60s --runtime-endpoint "$1" rmp -fa; then return 0; fi
        sleep "$try"
    done
    return 1
}

# remove_tree DIR: unless something is mounted in it.
remove_tree() {
    if grep -q " $1[/ ]" /proc/self/mounts && [ -z "$HOST" ]; then
        say "$1 stays: something is mounted there"
    else
        rm -rf "$HOST$1"
    fi
}

# ---- on the host: from one runtime to the other --------------------------------------------------------------------

# forward: a program of its own, for the shell ends it at the first step that fails only then. That one's
# name is in $S/step.
forward() {
    write "$S/step" "stopping kubelet"
    on_host systemctl stop "$KUBELET_UNIT"
    if on_host systemctl is-active --quiet "$RUNTIME_UNIT"; then
        write "$S/step" "ending the pods of $RUNTIME_UNIT"
        end_pods "$RUNTIME_ENDPOINT"
    fi
    write "$S/step" "stopping $RUNTIME_UNIT"
    on_host systemctl disable --now "$RUNTIME_UNIT"
    write "$S/step" "putting files in place"
    put "$S/new/files"
    write "$S/step" "waiting for Berth to be ready (journalctl -u berth)"
    restart_berth
    write "$S/step" "changing kubelet's configuration"
    point_kubelet
    write "$S/step" "starting kubelet with Berth (journalctl -u $KUBELET_UNIT)"
    on_host systemctl start "$KUBELET_UNIT"
    sleep "${SETTLE_SECONDS:-5}"
    wait_for "$WAIT_SECONDS" kubelet_runs
}

# backward: to what was there before.
backward() {
    on_host systemctl stop "$KUBELET_UNIT" || true
    if on_host systemctl is-active --quiet berth.service && [ "$(runtime_before)" != "$ENDPOINT" ]; then
        end_pods "$ENDPOINT" || say "some pods of Berth could not be ended"
    fi
    for unit in berth.service berth-keeper.service; do
        [ ! -e "$HOST$UNIT_DIR/$unit" ] || on_host systemctl disable --now "$unit" || say "$unit could not be stopped"
    done
    restore_all
    on_host systemctl daemon-reload
    sed -n 's/^unit //p' "$S/backup/list" | while read -r unit enabled active; do
        [ "$enabled" = no ] || on_host systemctl enable "$unit"
        [ "$active" = no ] || on_host systemctl start "$unit" || say "$unit could not be started"
    done
    on_host systemctl start "$KUBELET_UNIT"
}

# runtime_before: where kubelet looked for its runtime before we came.
runtime_before() {
    found="$(flag "$S/backup/files$KUBELET_FLAGS")"
    [ -n "$found" ] || found="$(line "$S/backup/files$KUBELET_CONFIG" containerRuntimeEndpoint | tr -d "\"' ")"
    printf '%s\n' "$found"
}

switch() {
    if [ "$(phase)" = switching ]; then
        if sh "$0" forward; then
            write "$S/phase" installed
        else
            write "$S/failed" "$HASH $(cat "$S/step")"
            write "$S/phase" backing-out
        fi
    fi
    case "$(phase)" in
    backing-out)
        say "failed at: $(cut -d' ' -f2- "$S/failed"); going back"
        backward
        end_switch
        rm -f "$S/phase"
        ;;
    restoring)
        backward
        if [ "$REMOVE_IMAGES" = true ]; then remove_tree /var/lib/berth; fi
        remove_tree /run/berth
        end_switch
        rm -f "$S/phase"
        rm -rf "$S"
        ;;
    *) end_switch ;;
    esac
}

# begin_switch PHASE: hands over to the host, for what follows ends this pod. A reboot in between goes on with it.
begin_switch() {
    mkdir -p "$HOST$UNIT_DIR"
    printf '%s\n' "[Unit]" "Description=Berth: moving this node between container runtimes" "After=local-fs.target" \
        "[Service]" "Type=exec" "Environment=HOST=" "ExecStart=/bin/sh $PLACE/host.sh switch" \
        "[Install]" "WantedBy=multi-user.target" >"$HOST$UNIT_DIR/$SWITCH.berth"
    mv -f "$HOST$UNIT_DIR/$SWITCH.berth" "$HOST$UNIT_DIR/$SWITCH"
    write "$S/phase" "$1"
    on_host systemctl daemon-reload
    on_host systemctl enable "$SWITCH"
    on_host systemctl start --no-block "$SWITCH"
}

end_switch() {
    on_host systemctl disable "$SWITCH" || true
    rm -f "$HOST$UNIT_DIR/$SWITCH"
    on_host systemctl daemon-reload
}

case "${0##*/} ${1:-}" in
"host.sh switch" | "host.sh forward")
    . "$S/settings"
    "$1"
    ;;
host.sh*)
    die "usage: host.sh switch"
    ;;
esac
