# 32-bit protected mode: counts the interrupts of the interval timer and says when there have been ten.

        .intel_syntax noprefix
        .code32
        .include "pic.inc"
        .include "pit.inc"

        .equ    IDT, 0x10000            # RAM that nothing else uses
        .equ    GATE, IDT + 8 * IRQ_BASE
        .equ    INTERRUPT_GATE, 0x8E00  # present, for ring 0, 32 bits, interrupts off in the handler
        .equ    TICKS, 10

        .global start
start:
        mov     eax, offset tick
        mov     [GATE], ax
        mov     word ptr [GATE + 2], cs
        mov     word ptr [GATE + 4], INTERRUPT_GATE
        shr     eax, 16
        mov     [GATE + 6], ax
        lidt    [idt]
        call    com1_init
        pic_init
        pit_init
        xor     ebx, ebx                # ticks so far
        pic1_unmask 1 << 0
wait:   sti                             # works from after the next instruction on, so that no tick comes in between
        hlt
        cmp     ebx, TICKS
        jb      wait
        mov     esi, offset message
        call    com1_puts
halt:   hlt
        jmp     halt

# Some nested KVMs cannot execute `iret` here (docs/stock-kvm.md).  This far return takes EIP and CS from the stack as
# `iret` does, but throws EFLAGS away: the flags stay as they are here, with interrupts off until the next `sti`.
tick:   inc     ebx
        push    eax
        mov     al, EOI
        out     PIC1_COMMAND, al
        pop     eax
        retf    4

        .include "com1.inc"

        .section .rodata
message:
        .asciz  "10 ticks\n"
idt:
        .word   8 * (IRQ_BASE + 1) - 1  # limit
        .long   IDT
