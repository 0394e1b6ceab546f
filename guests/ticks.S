# Real mode: counts the interrupts of the interval timer and says when there have been ten.

        .intel_syntax noprefix
        .code16
        .include "pic.inc"
        .include "pit.inc"

        .equ    VECTOR, 4 * IRQ_BASE    # IRQ 0 in the interrupt vector table
        .equ    TICKS, 10

        .global start
start:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, offset start
        cld
        mov     word ptr [VECTOR], offset tick
        mov     [VECTOR + 2], ax        # its segment
        call    com1_init
        pic_init
        pit_init
        xor     bx, bx                  # ticks so far
        pic1_unmask 1 << 0
wait:   sti                             # works from after the next instruction on, so that no tick comes in between
        hlt
        cli
        cmp     bx, TICKS
        jb      wait
        mov     si, offset message
        call    com1_puts
halt:   hlt
        jmp     halt

tick:   inc     bx
        push    ax
        mov     al, EOI
        out     PIC1_COMMAND, al
        pop     ax
        iret

        .include "com1.inc"

        .section .rodata
message:
        .asciz  "10 ticks\n"
