/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What QEMU's monitor said; of 'info mtree -f' the view that matters. */
/* clang-format off */
/* 7.2, -machine q35 -m 5G -vga std */
static const char ramblock_72[] =
    "              Block Name    PSize              Offset               Used              Total\r\n"
    "                  pc.ram    4 KiB  0x0000000000000000 0x0000000140000000 0x0000000140000000\r\n"
    "   0000:00:01.0/vga.vram    4 KiB  0x0000000140080000 0x0000000001000000 0x0000000001000000\r\n"
    "    /rom@etc/acpi/tables    4 KiB  0x00000001410c0000 0x0000000000020000 0x0000000000200000\r\n"
    "                 pc.bios    4 KiB  0x0000000140000000 0x0000000000040000 0x0000000000040000\r\n"
    "                  pc.rom    4 KiB  0x0000000140040000 0x0000000000020000 0x0000000000020000\r\n"
    "    0000:00:01.0/vga.rom    4 KiB  0x0000000141080000 0x0000000000010000 0x0000000000010000\r\n"
    "   /rom@etc/table-loader    4 KiB  0x00000001412c0000 0x0000000000001000 0x0000000000010000\r\n"
    "      /rom@etc/acpi/rsdp    4 KiB  0x0000000141300000 0x0000000000001000 0x0000000000001000\r\n";
/* 7.2, the same */
static const char mtree_72_q35[] =
    "FlatView #1\r\n"
    " AS \"memory\", root: system\r\n"
    " AS \"cpu-memory-0\", root: system\r\n"
    " Root memory region: system\r\n"
    "  0000000000000000-000000000009ffff (prio 0, ram): pc.ram\r\n"
    "  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\r\n"
    "  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom\r\n"
    "  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000\r\n"
    "  0000000000100000-000000007fffffff (prio 0, ram): pc.ram @0000000000100000\r\n"
    "  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic\r\n"
    "  00000000fed00000-00000000fed003ff (prio 0, i/o): hpet\r\n"
    "  00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi\r\n"
    "  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios\r\n"
    "  0000000100000000-00000001bfffffff (prio 0, ram): pc.ram @0000000080000000\r\n";
/* 10.0, the same */
static const char ramblock_100[] =
    "              Block Name    PSize              Offset               Used              Total                HVA  RO\r\n"
    "                  pc.ram    4 KiB  0x0000000000000000 0x0000000140000000 0x0000000140000000 0x00007fe83be00000  rw\r\n"
    "   0000:00:01.0/vga.vram    4 KiB  0x0000000140080000 0x0000000001000000 0x0000000001000000 0x00007fe83ac00000  rw\r\n"
    "    /rom@etc/acpi/tables    4 KiB  0x00000001410c0000 0x0000000000020000 0x0000000000200000 0x00007fe9c8c00000  ro\r\n"
    "                 pc.bios    4 KiB  0x0000000140000000 0x0000000000040000 0x0000000000040000 0x00007fe9c9400000  ro\r\n"
    "                  pc.rom    4 KiB  0x0000000140040000 0x0000000000020000 0x0000000000020000 0x00007fe9c9200000  ro\r\n"
    "    0000:00:01.0/vga.rom    4 KiB  0x0000000141080000 0x0000000000010000 0x0000000000010000 0x00007fe9c9000000  ro\r\n"
    "   /rom@etc/table-loader    4 KiB  0x00000001412c0000 0x0000000000001000 0x0000000000010000 0x00007fe9c8a00000  ro\r\n"
    "      /rom@etc/acpi/rsdp    4 KiB  0x0000000141300000 0x0000000000001000 0x0000000000001000 0x00007fe9c8800000  ro\r\n";
/* 7.2, -machine pc -accel kvm -m 5G */
static const char ramblock_72_pc[] =
    "              Block Name    PSize              Offset               Used              Total\r\n"
    "                  pc.ram    4 KiB  0x0000000000000000 0x0000000140000000 0x0000000140000000\r\n"
    "    /rom@etc/acpi/tables    4 KiB  0x0000000140080000 0x0000000000020000 0x0000000000200000\r\n"
    "                 pc.bios    4 KiB  0x0000000140000000 0x0000000000040000 0x0000000000040000\r\n"
    "                  pc.rom    4 KiB  0x0000000140040000 0x0000000000020000 0x0000000000020000\r\n"
    "   /rom@etc/table-loader    4 KiB  0x0000000140280000 0x0000000000001000 0x0000000000010000\r\n"
    "      /rom@etc/acpi/rsdp    4 KiB  0x00000001402c0000 0x0000000000001000 0x0000000000001000\r\n";
/* 7.2, the same, between two other views: I/O's was cut short, the last one is made up */
static const char mtree_72_pc[] =
    "FlatView #0\r\n"
    " AS \"I/O\", root: io\r\n"
    " Root memory region: io\r\n"
    "  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan\r\n"
    "\r\n"
    "FlatView #0\r\n"
    " AS \"memory\", root: system\r\n"
    " AS \"cpu-memory-0\", root: system\r\n"
    " Root memory region: system\r\n"
    "  0000000000000000-00000000000bffff (prio 0, ram): pc.ram KVM\r\n"
    "  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom KVM\r\n"
    "  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000 KVM\r\n"
    "  0000000000100000-00000000bfffffff (prio 0, ram): pc.ram @0000000000100000 KVM\r\n"
    "  00000000fec00000-00000000fec00fff (prio 0, i/o): kvm-ioapic\r\n"
    "  00000000fed00000-00000000fed003ff (prio 0, i/o): hpet\r\n"
    "  00000000fee00000-00000000feefffff (prio 4096, i/o): kvm-apic-msi\r\n"
    "  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios KVM\r\n"
    "  0000000100000000-000000017fffffff (prio 0, ram): pc.ram @00000000c0000000 KVM\r\n"
    "\r\n"
    "FlatView #2\r\n"
    " AS \"cpu-smm-0\", root: memory\r\n"
    " Root memory region: memory\r\n"
    "  0000000000000000-00000000000bffff (prio 0, ram): pc.ram KVM\r\n"
    "  0000000000100000-00000000bfffffff (prio 0, ram): elsewhere KVM\r\n"
    "\r\n";
/* 7.2, two memory backends, one a node */
static const char ramblock_72_numa[] =
    "              Block Name    PSize              Offset               Used              Total\r\n"
    "                      m0    4 KiB  0x0000000000000000 0x0000000100000000 0x0000000100000000\r\n"
    "                      m1    4 KiB  0x0000000100000000 0x0000000040000000 0x0000000040000000\r\n"
    "    /rom@etc/acpi/tables    4 KiB  0x0000000140080000 0x0000000000020000 0x0000000000200000\r\n"
    "                 pc.bios    4 KiB  0x0000000140000000 0x0000000000040000 0x0000000000040000\r\n"
    "                  pc.rom    4 KiB  0x0000000140040000 0x0000000000020000 0x0000000000020000\r\n"
    "   /rom@etc/table-loader    4 KiB  0x0000000140280000 0x0000000000001000 0x0000000000010000\r\n"
    "      /rom@etc/acpi/rsdp    4 KiB  0x00000001402c0000 0x0000000000001000 0x0000000000001000\r\n";
/* 7.2, the same */
static const char mtree_72_numa[] =
    "FlatView #1\r\n"
    " AS \"memory\", root: system\r\n"
    " AS \"cpu-memory-0\", root: system\r\n"
    " AS \"cpu-memory-1\", root: system\r\n"
    " Root memory region: system\r\n"
    "  0000000000000000-00000000000bffff (prio 0, ram): m0\r\n"
    "  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom\r\n"
    "  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000\r\n"
    "  0000000000100000-00000000bfffffff (prio 0, ram): m0 @0000000000100000\r\n"
    "  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic\r\n"
    "  00000000fed00000-00000000fed003ff (prio 0, i/o): hpet\r\n"
    "  00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi\r\n"
    "  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios\r\n"
    "  0000000100000000-000000013fffffff (prio 0, ram): m0 @00000000c0000000\r\n"
    "  0000000140000000-000000017fffffff (prio 0, ram): m1\r\n";
/* 7.2, a DIMM whose backend is called as the graphics card's memory is */
static const char ramblock_72_dimm[] =
    "              Block Name    PSize              Offset               Used              Total\r\n"
    "                vga.vram    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000\r\n"
    "                  pc.ram    4 KiB  0x0000000008100000 0x0000000008000000 0x0000000008000000\r\n"
    "   0000:00:02.0/vga.vram    4 KiB  0x0000000010180000 0x0000000001000000 0x0000000001000000\r\n"
    "    /rom@etc/acpi/tables    4 KiB  0x00000000111c0000 0x0000000000020000 0x0000000000200000\r\n"
    "         0000:00:03.0/iv    4 KiB  0x0000000008000000 0x0000000000100000 0x0000000000100000\r\n"
    "                 pc.bios    4 KiB  0x0000000010100000 0x0000000000040000 0x0000000000040000\r\n"
    "                  pc.rom    4 KiB  0x0000000010140000 0x0000000000020000 0x0000000000020000\r\n"
    "    0000:00:02.0/vga.rom    4 KiB  0x0000000011180000 0x0000000000010000 0x0000000000010000\r\n"
    "   /rom@etc/table-loader    4 KiB  0x00000000113c0000 0x0000000000001000 0x0000000000010000\r\n"
    "      /rom@etc/acpi/rsdp    4 KiB  0x0000000011400000 0x0000000000001000 0x0000000000001000\r\n";
/* 7.2, the same */
static const char mtree_72_dimm[] =
    "FlatView #1\r\n"
    " AS \"memory\", root: system\r\n"
    " AS \"cpu-memory-0\", root: system\r\n"
    " Root memory region: system\r\n"
    "  0000000000000000-000000000009ffff (prio 0, ram): pc.ram\r\n"
    "  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\r\n"
    "  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom\r\n"
    "  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000\r\n"
    "  0000000000100000-0000000007ffffff (prio 0, ram): pc.ram @0000000000100000\r\n"
    "  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic\r\n"
    "  00000000fed00000-00000000fed003ff (prio 0, i/o): hpet\r\n"
    "  00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi\r\n"
    "  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios\r\n"
    "  0000000100000000-0000000107ffffff (prio 0, ram): vga.vram\r\n";
/* clang-format on */
