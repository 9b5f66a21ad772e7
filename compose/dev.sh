#!/bin/sh
# Builds the service and runs it, and does so again whenever its sources change; while they don't compile, the last good
# build keeps serving. It looks once a second: file events don't reach containers on every system.
set -u

# The image's own toolchain: rust-toolchain.toml would make rustup download another one, or components for developers.
if command -v rustup > /dev/null; then
  RUSTUP_TOOLCHAIN=$(cd / && rustup show active-toolchain | cut -d ' ' -f 1)
  export RUSTUP_TOOLCHAIN
fi

sources() {
  find Cargo.toml Cargo.lock .cargo service -type f -exec cksum {} + | cksum
}

pid=
stop() {
  [ -z "$pid" ] || { kill "$pid"; wait "$pid"; } 2> /dev/null
  pid=
}
trap 'stop; exit 0' TERM INT

while true; do
  built=$(sources)
  if cargo build --locked --package service; then
    stop
    # A copy, so that the next build can replace the file.
    cp "$CARGO_TARGET_DIR"/*/debug/service /tmp/service
    /tmp/service &
    pid=$!
  fi
  while [ "$built" = "$(sources)" ]; do sleep 1; done
  echo "dev: sources have changed"
done
