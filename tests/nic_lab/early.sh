#!/bin/busybox sh
# The first program of the machine: shows the host's files as root, read-only, and hands over to what the kernel's command
# line says after `--`. The modules are in the order of their dependencies.
for module in /modules/*; do
    /bin/busybox insmod "$module"
done
/bin/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /sysroot
/bin/busybox mount -t devtmpfs dev /sysroot/dev
exec /bin/busybox switch_root /sysroot "$@"
