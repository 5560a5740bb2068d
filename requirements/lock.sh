#!/bin/sh
# Pin every dependency with its hashes. The development list is resolved first and holds for the two
# images, too: what the tests ran with is what ships.
set -eu
uv=$(realpath "${1:-.venv/bin/uv}")
cd "$(dirname "$0")"
lock() {
    UV_CUSTOM_COMPILE_COMMAND="make lock" "$uv" pip compile "$@" --quiet --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-annotate \
        --python-version 3.11 --python-platform x86_64-unknown-linux-gnu
}
lock bootstrap.in --output-file bootstrap.txt
lock dev.in --output-file dev.txt
lock operator.in --constraint dev.txt --output-file operator.txt
lock trainer.in --constraint dev.txt --output-file trainer.txt
lock go.in --output-file go.txt
if grep -nE 'https?://|--(extra-)?index-url|--find-links' -- *.txt; then
    echo "an address got into the lists" >&2
    exit 1
fi
