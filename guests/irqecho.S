# Real mode: sends back what arrives on the serial port, until a `q`, woken by an interrupt for each byte.
# Leaves the FIFOs as they are, since their reset would drop input that is already there.

        .intel_syntax noprefix
        .code16
        .include "pic.inc"

        .equ    RBR, 0x3F8              # receiver buffer register, when read
        .equ    THR, 0x3F8              # transmitter holding register, when written
        .equ    IER, 0x3F9              # interrupt enable
        .equ    IER_ERBFI, 0x01         # when a byte has arrived
        .equ    MCR, 0x3FC              # modem control
        .equ    MCR_READY, 0x0B         # DTR, RTS, and OUT2: on a PC it connects the interrupt
        .equ    LSR, 0x3FD              # line status
        .equ    LSR_THRE, 0x20          # THR is empty

        .equ    COM1_IRQ, 4
        .equ    VECTOR, 4 * (IRQ_BASE + COM1_IRQ)

        .global start
start:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, offset start
        mov     word ptr [VECTOR], offset arrived
        mov     [VECTOR + 2], ax        # its segment
        pic_init
        pic1_unmask 1 << COM1_IRQ
        mov     dx, MCR
        mov     al, MCR_READY
        out     dx, al
        mov     dx, IER
        mov     al, IER_ERBFI
        out     dx, al
wait:   sti                             # works from after the next instruction on, so that no byte comes in between
        hlt
        cmp     bl, 'q'
        jne     wait
halt:   hlt
        jmp     halt

arrived:
        mov     dx, RBR
        in      al, dx
        mov     bl, al
        cmp     al, 'q'
        je      ended
        mov     dx, LSR
1:      in      al, dx
        test    al, LSR_THRE
        jz      1b
        mov     dx, THR
        mov     al, bl
        out     dx, al
ended:  mov     al, EOI
        out     PIC1_COMMAND, al
        retf    2                       # as iret, but the flags stay as they are: no interrupt until the next sti
