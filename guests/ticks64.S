# 64-bit long mode: counts the interrupts of the interval timer and says when there have been ten.

        .intel_syntax noprefix
        .code64
        .include "pic.inc"
        .include "pit.inc"

        .equ    IDT, 0x10000            # RAM that nothing else uses
        .equ    GATE, IDT + 16 * IRQ_BASE
        .equ    INTERRUPT_GATE, 0x8E00  # present, for ring 0, 64 bits, interrupts off in the handler, no other stack
        .equ    TICKS, 10

        .global start
start:
        lea     rax, [rip + tick]
        mov     [GATE], ax
        mov     word ptr [GATE + 2], cs
        mov     word ptr [GATE + 4], INTERRUPT_GATE
        shr     rax, 16
        mov     [GATE + 6], rax         # the other 48 bits of the address, and zeros
        lidt    [rip + idt]
        call    com1_init
        pic_init
        pit_init
        xor     ebx, ebx                # ticks so far
        pic1_unmask 1 << 0
wait:   sti                             # works from after the next instruction on, so that no tick comes in between
        hlt
        cli
        cmp     ebx, TICKS
        jb      wait
        lea     rsi, [rip + message]
        call    com1_puts
halt:   hlt
        jmp     halt

tick:   inc     ebx
        push    rax
        mov     al, EOI
        out     PIC1_COMMAND, al
        pop     rax
        iretq

        .include "com1.inc"

        .section .rodata
message:
        .asciz  "10 ticks\n"
idt:
        .word   16 * (IRQ_BASE + 1) - 1 # limit
        .quad   IDT
