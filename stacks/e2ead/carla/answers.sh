#!/bin/bash
# Health check of CARLA: it answers its version and the name of its map. An open port alone says nothing: CARLA listens
# long before a map is there. CARLA's image has bash and coreutils and no client, so its protocol (msgpack-rpc) is spoken here:
#   request   [0, number, "name", [[false]]]
#   answer    [1, number, nil, [[1, value]]], and [[0, [error]]] instead while there is no map
set -u
port=${CARLA_PORT:-2000}

# ask NUMBER NAME: the answer's value, its texts as they are and everything else as dots.
ask() {
    local length reply
    printf -v length '\\x%02x' $((0xa0 + ${#2}))
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf '\x94\x00\x0'"$1$length$2"'\x91\x91\xc2' >&3
    # One read: what came first. The value's first text is in there, and a map's spawn points may be long.
    reply=$(timeout 3 dd bs=4096 count=1 status=none <&3 | LC_ALL=C od -An -v -tx1 | tr -d ' \n')
    exec 3>&-
    if [[ -z $reply ]]; then
        echo "no answer to $2 within 3 s"
        return 1
    fi
    if [[ $reply != 94010"$1"c0919201* ]]; then
        echo "$2 is not answered yet: $(texts "${reply:0:400}")"
        return 1
    fi
    texts "${reply:16:400}"
}

texts() {
    local index code
    for ((index = 0; index < ${#1}; index += 2)); do
        code=$((16#${1:index:2}))
        if ((code >= 32 && code < 127)); then printf "\\x${1:index:2}"; else printf .; fi
    done
}

version=$(ask 1 version 2>&1) || { echo "$version"; exit 1; }
[[ $version =~ [0-9]+\.[0-9]+(\.[0-9]+)? ]] || { echo "no version in the answer: $version"; exit 1; }
version=${BASH_REMATCH[0]}
map=$(ask 2 get_map_info 2>&1) || { echo "CARLA $version: $map"; exit 1; }
# The first text is the map's name: Carla/Maps/Town10HD_Opt, or without folders.
[[ $map =~ [A-Za-z][A-Za-z0-9_/]+ ]] || { echo "CARLA $version: no map is loaded"; exit 1; }
echo "CARLA $version, map ${BASH_REMATCH[0]}"
