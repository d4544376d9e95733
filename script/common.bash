# shellcheck shell=bash
# What the shell scripts share. A script sources this file before it changes the directory; the comment at the head of
# the script is its `--help`.

# Debian gives ordinary users a PATH without the folders of ip, iptables and nft.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

readonly pulse_s=3 # between two signs of life of a step

# Prints the head of the script and ends, if one of the arguments asks for it.
offer_help() {
    local argument
    for argument in "$@"; do
        if [[ $argument == -h || $argument == --help ]]; then
            sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
            exit 0
        fi
    done
}

# Ends the script: its arguments cannot be used.
refuse() {
    echo "${0##*/}: $1; see script/${0##*/} --help" >&2
    exit 2
}

# Ends the script unless all programs are there. Arguments: COMMAND=PACKAGE[,SERVICE]...
need() {
    local want packages=() absent=()
    for want in "$@"; do
        command -v "${want%%=*}" >/dev/null && continue
        want=${want%%,*}
        absent+=("${want%%=*}")
        packages+=("${want#*=}")
    done
    ((${#absent[@]})) || return 0
    echo "${0##*/}: missing: ${absent[*]}; run as root: apt-get install ${packages[*]}" >&2
    exit 2
}

# Runs a command: step TITLE COMMAND... Its output is shown if it fails, which ends the script; until then its latest
# line is shown every few seconds.
step() {
    local title=$1 log status=0 pulse
    shift
    log=$(mktemp)
    echo "${0##*/}: $title"
    show_latest "$log" &
    pulse=$!
    "$@" >"$log" 2>&1 </dev/null || status=$?
    kill "$pulse" 2>/dev/null || true
    wait "$pulse" 2>/dev/null || true
    if ((status)); then
        cat "$log" >&2
        echo "${0##*/}: $title: failed with exit status $status, see above; the same command tries it again" >&2
        rm -f "$log"
        exit 1
    fi
    rm -f "$log"
}

show_latest() {
    local begun=$SECONDS latest
    # The pause must not hold the output open when the script has ended.
    while sleep "$pulse_s" &>/dev/null && kill -0 $$ 2>/dev/null; do
        latest=$(tail -c 8000 "$1" | tr -c '[:print:]' '\n' | grep -v '^ *$' | tail -n 1 | sed "s|^ *||" | cut -c 1-80) || true
        echo "${0##*/}: $((SECONDS - begun)) s${latest:+: $latest}"
    done
}
