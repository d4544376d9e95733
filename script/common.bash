# shellcheck shell=bash
# Functions that the shell scripts share. A script sources this file before it changes the directory. The first comment
# of the script is the output of `--help`.

# In Debian, the PATH of ordinary users does not contain the directories of ip, iptables and nft.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

readonly pulse_s=3 # interval of the progress lines of a step

# Prints the first comment of the script and exits if an argument is -h or --help.
offer_help() {
    local argument
    for argument in "$@"; do
        if [[ $argument == -h || $argument == --help ]]; then
            sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
            exit 0
        fi
    done
}

# Reports an invalid argument and exits with status 2.
refuse() {
    echo "${0##*/}: $1; see script/${0##*/} --help" >&2
    exit 2
}

# Exits with status 2 if a program is missing. Arguments: COMMAND=PACKAGE[,SERVICE]...
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

# Runs a command: step TITLE COMMAND... Prints the latest line of its output every few seconds. If the command fails,
# prints its whole output and exits.
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
        echo "${0##*/}: $title: failed with exit status $status, see above; run the same command to retry" >&2
        rm -f "$log"
        exit 1
    fi
    rm -f "$log"
}

show_latest() {
    local begun=$SECONDS latest
    # sleep must not keep standard output open after the script has ended.
    while sleep "$pulse_s" &>/dev/null && kill -0 $$ 2>/dev/null; do
        latest=$(tail -c 8000 "$1" | tr -c '[:print:]' '\n' | grep -v '^ *$' | tail -n 1 | sed "s|^ *||" | cut -c 1-80) || true
        echo "${0##*/}: $((SECONDS - begun)) s${latest:+: $latest}"
    done
}
