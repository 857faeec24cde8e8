/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot entry and the timer interrupt of the flat guest. Everything stays in the flat 32-bit
 * segments that the loader sets up: no paging and no long mode, which a KVM that emulates them may lack.
 */
        .section .multiboot, "a"
        .balign 4
        .long 0x1badb002                /* magic */
        .long 0                         /* flags: the ELF headers tell where things go */
        .long -0x1badb002               /* checksum */

        .text
        .globl _start
_start:
        cli
        cld
        mov     $stack_top, %esp
        lgdt    gdt_pointer             /* the loader's own table is lost once memory is used */
        ljmp    $0x08, $1f
1:      mov     $0x10, %cx
        mov     %cx, %ds
        mov     %cx, %es
        mov     %cx, %ss
        push    %ebx                    /* multiboot information */
        push    %eax                    /* multiboot magic */
        call    flat_main
1:      cli
        hlt
        jmp     1b

        .globl flat_timer_entry
flat_timer_entry:
        push    %eax
        incl    flat_ticks
        mov     $0x20, %al              /* end of interrupt, to the first PIC */
        out     %al, $0x20
        pop     %eax
        /*
         * Not iret: an emulating KVM knows it in real mode only. Interrupts come only while
         * timer_wait() halts: so drop the flags and the (only) code segment. They stay on, as after
         * an iret: such a KVM was seen to hand over a CPU as halted that the timer had just woken,
         * and the next tick wakes it then.
         */
        sti
        ret     $8

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      /* 0x08: code, 0 to 4 GiB */
        .quad   0x00cf92000000ffff      /* 0x10: data, 0 to 4 GiB */
gdt_pointer:
        .word   23
        .long   gdt

        .bss
        .balign 16
        .skip   4096
stack_top:

        .section .note.GNU-stack, "", @progbits
