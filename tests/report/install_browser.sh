#!/bin/sh
# The report's tests open it in a real browser. Debian and Ubuntu have Chromium as a package; elsewhere bring your own.
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null 2>&1 && exit 0
done
echo "setting up: Chromium, for the report's browser tests"
if command -v apt-get >/dev/null 2>&1; then
  if [ "$(id -u)" = 0 ]; then SUDO=; else SUDO="sudo -n"; fi
  $SUDO apt-get update -q && $SUDO apt-get install -y -q --no-install-recommends chromium && exit 0
fi
echo "No Chromium found and none could be installed: install chromium or google-chrome and run again." >&2
exit 1
