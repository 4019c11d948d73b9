#!/bin/bash
# dracut module of cc-base. Number 99, so that it runs last and can take away
# what the modules before it install and this initrd does not use.
# dracut sets moddir, initdir and the systemd paths before it calls this.
# shellcheck disable=SC2154

check() {
    require_binaries /usr/lib/cc/cc-guest cryptsetup veritysetup dmsetup mkfs.ext4 blkdiscard || return 1
    # Only on request (dracutmodules=): a rescue initrd is not ours to change.
    return 255
}

depends() {
    echo systemd-initrd systemd-udevd systemd-modules-load
}

installkernel() {
    # Disk and file systems: the verified erofs, and the ext4 of the writable
    # volume. ISO or network file systems stay out.
    hostonly='' instmods virtio_pci virtio_blk virtio_scsi nvme sd_mod erofs overlay ext4
    # Mapped devices; xts, sha256 and AF_ALG are loaded by name from C code, so
    # no dependency of another module brings them.
    hostonly='' instmods dm_mod dm_crypt dm_verity dm_integrity \
        xts cbc ecb aesni_intel sha256_ssse3 sha512_ssse3 sha256_generic sha512_generic \
        authenc hmac crc32c_intel crc32c_generic libcrc32c algif_skcipher algif_hash algif_aead
    # The enrolment secret, attestation, the port to the operator, the TPM, and
    # the way to tell QEMU of a panic.
    hostonly='' instmods qemu_fw_cfg sev-guest tdx-guest tsm configfs virtio_console \
        pvpanic pvpanic_pci tpm_crb tpm_tis
}

install() {
    inst_multiple cryptsetup veritysetup dmsetup mkfs.ext4 blkdiscard
    inst_simple /etc/mke2fs.conf
    inst /usr/lib/cc/cc-guest
    inst_simple /usr/lib/cc/guest.json
    inst_rules 55-dm.rules 60-persistent-storage-dm.rules 95-dm-notify.rules
    # cryptsetup opens OpenSSL's legacy provider at start and, without it,
    # prints an error although it does not need it.
    inst_libdir_file "ossl-modules/legacy.so"
    inst_simple "$moddir/cc-modules.conf" /usr/lib/modules-load.d/cc-initrd.conf

    local _unit
    for _unit in cc-unlock.service cc-mounts.service emergency.service emergency.target; do
        inst_simple "$moddir/$_unit" "$systemdsystemunitdir/$_unit"
    done
    ln_r "$systemdsystemunitdir/emergency.service" "$systemdsystemunitdir/rescue.service"
    ln_r "$systemdsystemunitdir/initrd.target" "$systemdsystemunitdir/default.target"
    $SYSTEMCTL -q --root "$initdir" add-requires initrd-root-device.target cc-unlock.service
    $SYSTEMCTL -q --root "$initdir" add-requires initrd.target cc-mounts.service

    # systemd takes an initrd for one by this file.
    : > "$initdir/usr/lib/initrd-release"
    ln_r /usr/lib/initrd-release /etc/initrd-release
    echo 'root:x:0:0::/root:/usr/sbin/nologin' >> "$initdir/etc/passwd"

    # Generators and programs that could start a shell, change the transaction
    # from outside or pull in disks that nobody measured.
    rm -f "$initdir$systemdutildir/system-generators/systemd-debug-generator" \
        "$initdir$systemdutildir/system-generators/systemd-gpt-auto-generator" \
        "$initdir$systemdsystemunitdir/debug-shell.service" \
        "$initdir$systemdutildir/systemd-coredump" \
        "$initdir$systemdutildir/systemd-volatile-root" \
        "$initdir$systemdsystemunitdir/systemd-volatile-root.service"
}
